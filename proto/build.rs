//! Compiles the `.proto` files with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=troika");
    let files = [
        "troika/v1/types.proto",
        "troika/v1/rounds.proto",
        "troika/v1/state.proto",
        "troika/v1/cluster.proto",
        "troika/v1/feed.proto",
        "troika/member/v1/member.proto",
        "troika/log/v1/log.proto",
        "troika/record/v1/record.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
