//! Compiles the protocol files without `protoc`. Byte fields become `Bytes`, so that a value is
//! not copied on its way from the socket to the log. The descriptors are kept for reflection.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 9] = [
    "kvsvr.proto",
    "etcd/rpc.proto",
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/authpb.proto",
    "etcd/lease.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "grpc/health.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(FILES, ["proto", "../world/proto"])?;
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=../world/proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("::world::codec::SmallCodec")
        .extern_path(".hongbao.mux.v1", "::world::mux")
        .compile_fds(files)?;
    Ok(())
}
