#!/usr/bin/env bash
# Installs the Debian packages that building and testing need; says nothing when all are there.
set -euo pipefail

#  package        what it is for                                      how to see that it is there
#  (libclang-cpp alone, which comes with other tools, is not what bindgen loads)
needs=(
  "g++            RocksDB                                             command -v g++"
  "libclang-dev   bindings to RocksDB                                 compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*'"
  "etcd-client    tests that drive the etcd API with the real etcdctl command -v etcdctl"
  "etcd-server    tests that compare our answers with etcd's         command -v etcd"
  "protobuf-compiler  the build of a client crate that tests use     command -v protoc"
  "libprotobuf-dev    definitions that build includes                 compgen -G /usr/include/google/protobuf/descriptor.proto"
  "iproute2       tests that cut zones off in network namespaces      command -v ip"
)
missing=()
for need in "${needs[@]}"; do
  read -r package rest <<<"$need"
  check=$(sed -E 's/.*((command|compgen) .*)$/\1/' <<<"$need")
  eval "$check" >/dev/null 2>&1 || missing+=("$package")
done

if ! command -v cargo >/dev/null; then
  echo "cargo is not installed: install Rust 1.91 or later first (https://rustup.rs)" >&2
  exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

run=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install these packages as root: ${missing[*]}" >&2; exit 1; }
  run=(sudo)
fi
command -v apt-get >/dev/null || { echo "this is not Debian: install what corresponds to: ${missing[*]}" >&2; exit 1; }
echo "installing ${missing[*]}" >&2
"${run[@]}" apt-get update -qq
"${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
# Tests start their own etcd; the service that its package brings would hold ports of ours.
case " ${missing[*]} " in
  *" etcd-server "*) command -v systemctl >/dev/null && "${run[@]}" systemctl disable --now etcd >/dev/null 2>&1 || true ;;
esac
