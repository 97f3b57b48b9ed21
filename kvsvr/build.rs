//! Compiles the protocol files without `protoc`. Byte fields become `Bytes`, so that a value is
//! not copied on its way from the socket to the log.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        protox::compile(["kvsvr.proto", "etcd/rpc.proto", "etcd/kv.proto", "etcd/lease.proto"], ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
