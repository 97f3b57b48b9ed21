//! Compiles the edge's protocol without a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/edge.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").codec_path("::world::codec::SmallCodec").compile_fds(files)?;
    Ok(())
}
