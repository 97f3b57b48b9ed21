//! What etcd promises of watches, while zones are ended with SIGKILL: ordered, unique, reliable,
//! atomic, resumable.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, Txn, TxnOp, WatchOptions};
use serde_json::Value;
use tests::{DevCluster, hongbao};
use tokio::time::{sleep, timeout};

const NODES: [&str; 3] = ["a1", "b1", "c1"];

/// An event: revision, key, value.
type Told = (i64, String, String);

fn options() -> ConnectOptions {
    ConnectOptions::new().with_timeout(Duration::from_secs(5)).with_connect_timeout(Duration::from_secs(1))
}

/// Watches from revision 2 on, each time at the next zone when a stream breaks, and after some
/// responses even when it does not. Ends when it has been told of revision `last` (once that is set).
async fn watch(endpoints: Vec<String>, first: usize, last: Arc<AtomicI64>) -> (Vec<Told>, usize) {
    let mut told: Vec<Told> = Vec::new();
    let mut next = 2;
    let mut streams = 0;
    loop {
        let endpoint = &endpoints[(first + streams) % endpoints.len()];
        streams += 1;
        let Ok(mut client) = Client::connect([endpoint], Some(options())).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let from = WatchOptions::new().with_prefix().with_start_revision(next);
        let Ok(Ok(mut stream)) = timeout(Duration::from_secs(2), client.watch("w/", Some(from))).await else {
            continue;
        };
        for _ in 0..200 {
            let goal = last.load(Ordering::SeqCst);
            if goal > 0 && next > goal {
                return (told, streams);
            }
            let Ok(heard) = timeout(Duration::from_secs(2), stream.message()).await else { break };
            let Ok(Some(response)) = heard else { break };
            for event in response.events() {
                let pair = event.kv().expect("a pair");
                let (key, value) = (pair.key_str().expect("UTF-8"), pair.value_str().expect("UTF-8"));
                told.push((pair.mod_revision(), key.to_owned(), value.to_owned()));
                next = pair.mod_revision() + 1;
            }
        }
    }
}

/// Writes pairs of keys, each pair in one transaction, wherever somebody takes them. Answers the
/// numbers that were acknowledged.
async fn write(endpoints: Vec<String>, writer: usize, stop: Arc<AtomicBool>) -> Vec<(i64, String)> {
    let mut acknowledged = Vec::new();
    let mut number = 0;
    let mut turn = writer;
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut client) = Client::connect([&endpoints[turn % endpoints.len()]], Some(options())).await
        else {
            turn += 1;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            number += 1;
            // Never written twice, so an unknown outcome does no harm: it is told once or not at all.
            let value = format!("{writer}-{number}");
            let keys = [format!("w/{writer}/left"), format!("w/{writer}/right")];
            let puts: Vec<TxnOp> =
                keys.iter().map(|key| TxnOp::put(key.as_str(), value.as_str(), None)).collect();
            match client.txn(Txn::new().and_then(puts)).await {
                Ok(answer) => acknowledged.push((answer.header().expect("a header").revision(), value)),
                Err(_) => break,
            }
            sleep(Duration::from_millis(2)).await;
        }
        turn += 1;
        sleep(Duration::from_millis(20)).await;
    }
    acknowledged
}

fn judge(told: &[Told], acknowledged: &[(i64, String)]) {
    assert!(told.is_sorted_by_key(|(revision, ..)| *revision), "not in order");
    let unique: BTreeSet<&Told> = told.iter().collect();
    assert_eq!(unique.len(), told.len(), "something was told twice");
    for pair in told.chunks(2) {
        let [(revision, left, value), (other_revision, right, other_value)] = pair else {
            panic!("half a revision: {pair:?}")
        };
        assert_eq!((revision, value), (other_revision, other_value), "a revision was split: {pair:?}");
        assert!(left.ends_with("left") && right.ends_with("right"), "{pair:?}");
    }
    for (revision, value) in acknowledged {
        let found = told.iter().filter(|(_, _, told)| told == value).collect::<Vec<_>>();
        assert_eq!(found.len(), 2, "{value}, acknowledged at {revision}, was told {found:?}");
        assert_eq!(found[0].0, *revision, "told at another revision than acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_keep_their_promises_while_zones_are_killed() {
    let mut cluster = DevCluster::up();
    let endpoints: Vec<String> = NODES.iter().map(|node| cluster.field(node, "etcd")).collect();
    let (last, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let watchers: Vec<_> =
        (0..3).map(|first| tokio::spawn(watch(endpoints.clone(), first, Arc::clone(&last)))).collect();
    let writers: Vec<_> =
        (0..3).map(|writer| tokio::spawn(write(endpoints.clone(), writer, Arc::clone(&stop)))).collect();
    for round in 0..6 {
        sleep(Duration::from_millis(1_500)).await;
        let node = NODES[round % 3];
        tokio::task::block_in_place(|| {
            cluster.kill(node);
            std::thread::sleep(Duration::from_millis(1_500));
            cluster.up_again();
        });
    }
    sleep(Duration::from_millis(1_000)).await;
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer ends"));
    }
    assert!(acknowledged.len() > 200, "only {} writes were acknowledged", acknowledged.len());
    let goal = settled(&endpoints[0]).await;
    last.store(goal, Ordering::SeqCst);
    let mut all: Option<Vec<Told>> = None;
    for watcher in watchers {
        let (told, streams) =
            timeout(Duration::from_secs(60), watcher).await.expect("in time").expect("a watcher ends");
        println!("{} events over {streams} streams, {} writes acknowledged", told.len(), acknowledged.len());
        judge(&told, &acknowledged);
        assert_eq!(told.last().map(|(revision, ..)| *revision), Some(goal), "the watch is not complete");
        assert_eq!(*all.get_or_insert_with(|| told.clone()), told, "two watchers were told different things");
    }
}

/// The last revision of the script, once nothing is under way any more.
async fn settled(endpoint: &str) -> i64 {
    let mut before = 0;
    for _ in 0..60 {
        sleep(Duration::from_millis(500)).await;
        let Ok(mut client) = Client::connect([endpoint], Some(options())).await else { continue };
        let Ok(all) = client.get("w/", Some(GetOptions::new().with_prefix())).await else { continue };
        let newest = all.kvs().iter().map(|pair| pair.mod_revision()).max().expect("something was written");
        if newest == before {
            return newest;
        }
        before = newest;
    }
    panic!("the cluster does not come to rest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_without_a_leader_ends_the_watches_that_asked_for_one() {
    let cluster = DevCluster::up();
    let endpoint = cluster.field("c1", "etcd");
    let wants = options().with_require_leader(true);
    let mut wants = Client::connect([&endpoint], Some(wants)).await.expect("a connection");
    let mut patient = Client::connect([&endpoint], None).await.expect("a connection");
    let mut ending = wants.watch("k", None).await.expect("a watch");
    assert!(ending.message().await.expect("a response").expect("goes on").created());
    let mut staying = patient.watch("k", None).await.expect("a watch");
    assert!(staying.message().await.expect("a response").expect("goes on").created());
    cluster.kill("a1");
    cluster.kill("b1");
    let ended = timeout(Duration::from_secs(20), ending.message()).await.expect("in time");
    let etcd_client::Error::GRpcStatus(status) = ended.expect_err("there is no leader") else {
        panic!("no status")
    };
    assert_eq!(status.message(), "etcdserver: no leader");
    assert!(timeout(Duration::from_millis(300), staying.message()).await.is_err(), "the other one goes on");
    let refused = timeout(Duration::from_secs(5), wants.watch("k", None)).await.expect("in time");
    assert!(refused.is_err(), "a new one is refused");
    let kept = GetOptions::new().with_serializable();
    patient.get("k", Some(kept)).await.expect("what is there can be read");
}

/// A process that is ended with the test, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().expect("it runs until it is ended");
        self.0.wait().expect("it ends");
    }
}

/// What `hongbao kv watch` has printed so far, as (revision, value).
fn printed(lines: &Arc<Mutex<Vec<String>>>) -> Vec<(i64, Value)> {
    let lines = lines.lock().expect("nobody panics with it").clone();
    let parsed = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    parsed
        .map(|change| {
            let record = change["value"].as_str().expect("a put");
            (
                change["revision"].as_i64().expect("a revision"),
                serde_json::from_str(record).expect("a record"),
            )
        })
        .collect()
}

#[test]
fn our_own_watch_goes_on_through_the_loss_of_each_zone_in_turn() {
    let mut cluster = DevCluster::up();
    let words = ["kv", "watch", "hongbao/zone/c", "--from", "1", "--dir", cluster.dir(), "-o", "json"];
    let child = Command::new(tests::program()).args(words).stdout(Stdio::piped()).spawn();
    let mut watching = Ended(child.expect("it starts"));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let output = BufReader::new(watching.0.stdout.take().expect("its output"));
    let reader = std::thread::spawn({
        let lines = Arc::clone(&lines);
        move || {
            for line in output.lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        }
    });
    for node in ["a1", "b1", "c1", "a1"] {
        cluster.kill(node);
        let dir = cluster.dir().to_owned();
        // Refused until the zones have seen each other well again.
        let operate = |verb: &str| {
            for _ in 0..100 {
                if hongbao(&["zone", verb, "c", "--dir", &dir, "--yes"]).code == 0 {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            panic!("{verb} is refused: {}", hongbao(&["zone", verb, "c", "--dir", &dir, "--yes"]).err);
        };
        // What is lost may be failed over while it is away; otherwise all zones must be well.
        if node == "c1" {
            operate("failover");
            cluster.up_again();
        } else {
            cluster.up_again();
            operate("failover");
        }
        operate("restore");
    }
    let own =
        hongbao(&["kv", "get", "hongbao/zone/c", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    let (version, newest) = (&own["records"][0]["version"], &own["records"][0]["mod_revision"]);
    let version = usize::try_from(version.as_u64().expect("a version")).expect("small");
    assert!(version >= 9, "the zone was failed over and restored four times: {own}");
    for _ in 0..200 {
        if printed(&lines).len() >= version {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(watching);
    reader.join().expect("it reads to the end");
    let printed = printed(&lines);
    assert_eq!(printed.len(), version, "every write of the record once: {printed:?}");
    assert!(printed.is_sorted_by(|(one, _), (next, _)| one < next), "out of order: {printed:?}");
    assert_eq!(Some(printed[version - 1].0), newest.as_i64());
    let states: Vec<&str> = printed.iter().filter_map(|(_, record)| record["state"].as_str()).collect();
    let turns = states.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(turns && states[0] == "active", "{states:?}");
}
