#!/usr/bin/env bash
# Compiles RocksDB once per machine, into the user's cache directory, and links it into the checkout.
#
# The source is the one that the pinned `librocksdb-sys` crate carries, so library and bindings
# always agree. Cargo would compile it again for every profile and feature set; this does it once,
# several source files to a compiler call (the headers cost more than the code): about 8 minutes on
# two cores instead of 22. Set HONGBAO_ROCKSDB_DIR to use a librocksdb.a of your own.
set -euo pipefail
cd "$(dirname "$0")/../.."
FILES_PER_CALL=12

say() { printf '%s\n' "$*" >&2; }

link() {
  mkdir -p .cache
  ln -sfn "$1" .cache/rocksdb
}

if [ -n "${HONGBAO_ROCKSDB_DIR:-}" ]; then
  [ -f "$HONGBAO_ROCKSDB_DIR/librocksdb.a" ] || { say "HONGBAO_ROCKSDB_DIR=$HONGBAO_ROCKSDB_DIR holds no librocksdb.a"; exit 1; }
  link "$(realpath "$HONGBAO_ROCKSDB_DIR")"
  exit 0
fi

version=$(sed -n '/^name = "librocksdb-sys"/{n;s/version = "\(.*\)"/\1/p;}' Cargo.lock)
[ -n "$version" ] || { say "Cargo.lock names no librocksdb-sys"; exit 1; }
arch=$(uname -m)
dir="${XDG_CACHE_HOME:-$HOME/.cache}/hongbao/rocksdb-$version-$arch"
if [ -f "$dir/librocksdb.a" ]; then
  link "$dir"
  exit 0
fi

cargo fetch --locked --quiet
source=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/librocksdb-sys-"$version" | head -n 1)
[ -d "$source/rocksdb" ] || { say "cargo fetch left no source of librocksdb-sys $version"; exit 1; }

work="$dir.partial"
rm -rf "$work"
mkdir -p "$work"

# One source file includes up to FILES_PER_CALL files of the same directory.
grep -v build_version.cc "$source/rocksdb_lib_sources.txt" | tr -d '\r' | grep '[.]cc$' | sort |
  awk -v most="$FILES_PER_CALL" -v out="$work" '
    { dir = $0; sub("/[^/]*$", "", dir)
      if (dir != last || n >= most) { chunk++; n = 0; last = dir }
      n++
      printf "#include \"%s\"\n", $0 > sprintf("%s/part_%03d.cc", out, chunk) }'
cp "$source/build_version.cc" "$work/part_version.cc"

export SOURCE="$source" WORK="$work" CXX="${CXX:-g++}"
CXX_FLAGS="-O2 -fPIC -w -std=c++20 -include cstdint -DNDEBUG -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
  -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
  -I$source/rocksdb/include -I$source/rocksdb -I$source"
case "$arch" in
  x86_64) CXX_FLAGS="$CXX_FLAGS -msse4.2 -mpclmul" ;;        # CRC32C in hardware: any server since 2011
  aarch64) CXX_FLAGS="$CXX_FLAGS -march=armv8-a+crc+crypto" ;;
esac
export CXX_FLAGS

compile() {
  part=$1
  if ! $CXX $CXX_FLAGS -c "$part" -o "${part%.cc}.o" 2>"${part%.cc}.log"; then
    # Two files of this part do not go together: compile each alone.
    rm -f "${part%.cc}.o"
    sed -n 's/#include "\(.*\)"/\1/p' "$part" | while read -r file; do
      $CXX $CXX_FLAGS -c "$SOURCE/rocksdb/$file" -o "${part%.cc}_$(basename "$file" .cc).o"
    done
  fi
  printf '\rcompiling RocksDB, once on this machine: %d of %d parts' \
    "$(ls "$WORK" | grep -c '^part_[0-9a-z]*[.]o$')" "$(ls "$WORK" | grep -c '[.]cc$')" >&2
}
export -f compile
say "compiling RocksDB $version into $dir (about 8 minutes on two cores)"
ls -S "$work"/*.cc | xargs -P "$(nproc)" -I{} bash -euc 'compile {}'
say ""
ar crs "$work/librocksdb.a" "$work"/*.o
find "$work" -type f ! -name librocksdb.a -delete
mv "$work" "$dir"
link "$dir"
say "done: $dir/librocksdb.a"
