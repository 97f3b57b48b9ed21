//! Compiles every proto of this crate, without protoc. Byte fields become `Bytes`, so that what
//! was received is stored and applied without a copy.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=../world/proto");
    let mut protos: Vec<PathBuf> =
        std::fs::read_dir("proto")?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    protos.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    protos.sort();
    let descriptors = protox::compile(&protos, ["proto", "../world/proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("::world::codec::SmallCodec")
        .extern_path(".hongbao.mux.v1", "::world::mux")
        .compile_fds(descriptors)?;
    Ok(())
}
