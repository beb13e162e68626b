//! Compiles the proto files, in Rust: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=rekeeper");
    let files = protox::compile(["rekeeper/v1/agents.proto", "rekeeper/v1/operator.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
