"""What a program written against etcd with the `etcd3` package does, at all zones in turn.

Usage: etcd3_script.py HOST:PORT HOST:PORT HOST:PORT
Every step asserts; the last line printed is "all is well".
"""

import io
import itertools
import sys
import threading
import time

import etcd3

ADDRESSES = [address.rsplit(":", 1) for address in sys.argv[1:]]
assert len(ADDRESSES) == 3, __doc__


def connect(number, **more):
    host, port = ADDRESSES[number % 3]
    return etcd3.client(host=host, port=int(port), timeout=10, **more)


def keys_and_transactions():
    for number in range(3):
        client = connect(number)
        client.put("k", f"v{number}")
        for other in range(3):
            value, meta = connect(other).get("k")
            assert value == f"v{number}".encode(), value
        assert meta.version == number + 1, meta.version
    client = connect(1)
    assert client.replace("k", "v2", "w") and not client.replace("k", "v2", "x")
    assert client.put_if_not_exists("new", "1") and not client.put_if_not_exists("new", "2")
    done, answers = client.transaction(
        compare=[client.transactions.value("k") == "w", client.transactions.version("none") == 0],
        success=[client.transactions.put("t/1", "a"), client.transactions.get("t/1")],
        failure=[client.transactions.put("t/1", "b")],
    )
    assert done and answers[1][0][0] == b"a", answers
    for number in range(5):
        client.put(f"p/{number}", str(number))
    values = [value for value, _ in client.get_prefix("p/", sort_order="descend")]
    assert values == [b"4", b"3", b"2", b"1", b"0"], values
    assert client.delete_prefix("p/").deleted == 5
    assert client.delete("k") and not client.delete("k")


def leases():
    client = connect(2)
    lease = client.lease(600)
    client.put("leased", "v", lease)
    assert lease.keys == [b"leased"], lease.keys
    assert 590 < lease.remaining_ttl <= 600 and lease.granted_ttl == 600
    assert connect(0).refresh_lease(lease.id)
    kept = [answer.TTL for answer in lease.refresh()]
    assert kept == [600], kept
    lease.revoke()
    assert connect(1).get("leased") == (None, None)
    short = client.lease(2)
    client.put("short", "v", short)
    ended = time.monotonic() + 20
    while client.get("short")[0] is not None:
        assert time.monotonic() < ended, "the lease does not end"
        time.sleep(0.1)


def locks():
    order = []

    def hold(number):
        with connect(number).lock("l", ttl=30) as lock:
            assert lock.is_acquired()
            order.append(("in", number))
            time.sleep(0.1)
            order.append(("out", number))

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(order) == 6, order
    for (entered, who), (left, whose) in zip(order[::2], order[1::2]):
        assert (entered, left) == ("in", "out") and who == whose, order


def watches():
    client, writer = connect(0), connect(2)
    events, cancel = client.watch_prefix("w/")
    for number in range(10):
        writer.put(f"w/{number}", "v")
    writer.delete("w/0")
    seen = [event.key for event in itertools.islice(events, 11)]
    assert seen == [f"w/{number}".encode() for number in range(10)] + [b"w/0"], seen
    cancel()


def maintenance():
    for number in range(3):
        client = connect(number)
        status = client.status()
        assert status.version.startswith("3."), status.version
        assert status.leader is not None and status.raft_index > 0 and status.db_size > 0
        assert len(list(client.members)) == 3
        assert client.hash() > 0
        client.defragment()
    client = connect(1)
    assert list(client.list_alarms()) == []
    client.create_alarm()
    try:
        client.put("full", "v")
        raise AssertionError("a put was taken while space is short")
    except etcd3.exceptions.Etcd3Exception:
        pass
    except Exception as error:  # The package lets this code through as gRPC's own error.
        assert "database space exceeded" in str(error), error
    assert list(client.disarm_alarm()) != []
    client.put("full", "v")
    file = io.BytesIO()
    client.snapshot(file)
    assert file.getvalue().startswith(b"hongbaoK")
    revision = client.get("full")[1].mod_revision
    client.compact(revision)


def users():
    client = connect(0)
    stub, rpc = etcd3.etcdrpc.AuthStub(client.channel), etcd3.etcdrpc
    stub.UserAdd(rpc.AuthUserAddRequest(name="root", password="r"))
    stub.RoleAdd(rpc.AuthRoleAddRequest(name="root"))
    stub.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    stub.AuthEnable(rpc.AuthEnableRequest())
    try:
        connect(1).get("k")
        raise AssertionError("nobody was let in")
    except Exception as error:
        assert "user name is empty" in str(error), error
    # The package sends its token as a call credential, which gRPC gives away over TLS only.
    login = rpc.AuthenticateRequest(name="root", password="r")
    token = [("token", stub.Authenticate(login).token)]
    for number in range(3):
        keys = etcd3.etcdrpc.KVStub(connect(number).channel)
        keys.Put(rpc.PutRequest(key=b"by root", value=b"v"), metadata=token)
        assert keys.Range(rpc.RangeRequest(key=b"by root"), metadata=token).kvs[0].value == b"v"
    try:
        stub.Authenticate(rpc.AuthenticateRequest(name="root", password="wrong"))
        raise AssertionError("a wrong password was taken")
    except Exception as error:
        assert "authentication failed" in str(error), error
    stub.AuthDisable(rpc.AuthDisableRequest(), metadata=token)
    assert connect(2).get("by root")[0] == b"v"


for part in (keys_and_transactions, leases, locks, watches, maintenance, users):
    part()
    print(part.__name__, flush=True)
print("all is well")
