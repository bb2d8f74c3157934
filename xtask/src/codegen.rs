//! `cargo xtask codegen`: every .proto below proto/ becomes Rust in crates/api/src/gen, with the
//! encoded descriptors beside it. Needs no protoc. The output depends on the .proto files and on the
//! generators' versions in Cargo.lock only: the same tree gives the same bytes everywhere.
//!
//! Must not know a .proto file by name: a new one is picked up by lying in proto/.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_types::FileDescriptorSet;
use protox::file::{
    ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver,
};

const OUTPUT: &str = "crates/api/src/gen";
const DESCRIPTORS: &str = "descriptors.bin";

/// Messages whose `bytes` fields carry bulk data: decoding borrows from the receive buffer instead
/// of copying.
const BULK: &[&str] = &[
    ".containerd.services.content.v1.ReadContentResponse",
    ".containerd.services.content.v1.WriteContentRequest",
    ".containerd.types.transfer.Data",
];

#[derive(clap::Args)]
pub(crate) struct Codegen {
    /// Write nothing; fail when the committed files differ from what would be written
    #[arg(long)]
    check: bool,
}

impl Codegen {
    pub(crate) fn execute(&self) -> Result<(), Box<dyn Error>> {
        let root = workspace_root()?;
        let wanted = generate(&root.join("proto"))?;
        let output = root.join(OUTPUT);
        let stale = difference(&output, &wanted)?;
        if stale.is_empty() {
            return Ok(());
        }
        if self.check {
            let names = stale.into_iter().collect::<Vec<_>>().join(", ");
            return Err(format!("{OUTPUT} is stale ({names}): run `cargo xtask codegen`").into());
        }
        write(&output, &wanted, &stale)?;
        Ok(())
    }
}

fn workspace_root() -> Result<PathBuf, Box<dyn Error>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().ok_or("xtask lies outside a workspace")?.to_path_buf())
}

/// File name below the output directory -> its bytes.
type Files = BTreeMap<String, Vec<u8>>;

fn generate(proto: &Path) -> Result<Files, Box<dyn Error>> {
    let mut compiler = compile(proto)?;

    let scratch = tempfile::tempdir()?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names().bytes(BULK).include_file("mod.rs");
    tonic_prost_build::configure()
        // `Task.Connect` would collide with the constructor that this adds.
        .build_transport(false)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .out_dir(scratch.path())
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;

    let mut files = Files::new();
    for entry in fs::read_dir(scratch.path())? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| format!("{name:?}"))?;
        files.insert(name, fs::read(entry.path())?);
    }
    // Reflection answers with names and types; comments would be most of its bytes.
    compiler.include_source_info(false);
    files.insert(DESCRIPTORS.to_owned(), compiler.encode_file_descriptor_set());
    Ok(files)
}

/// Every .proto below `proto`, with what they import.
fn compile(proto: &Path) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut sources = Vec::new();
    find_protos(proto, &mut sources)?;
    sources.sort();

    let mut resolver = ChainFileResolver::new();
    resolver.add(IncludeFileResolver::new(proto.to_path_buf()));
    resolver.add(GoogleFileResolver::new());
    resolver.add(rpc_status()?);
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    // Debug, because there it tells the line.
    compiler.open_files(sources).map_err(|error| format!("{error:?}"))?;
    Ok(compiler)
}

/// google.rpc.Status: in no protobuf distribution, but published compiled by this crate, whose own
/// name for the file lacks the folder that everybody imports it by.
fn rpc_status() -> Result<DescriptorSetFileResolver, Box<dyn Error>> {
    let mut set = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    set.file.retain(|file| file.package() == "google.rpc" && file.name().ends_with("status.proto"));
    for file in &mut set.file {
        file.name = Some("google/rpc/status.proto".to_owned());
    }
    Ok(DescriptorSetFileResolver::new(set))
}

fn find_protos(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find_protos(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// Names that are missing, changed, or no longer generated.
fn difference(output: &Path, wanted: &Files) -> io::Result<BTreeSet<String>> {
    let mut stale = BTreeSet::new();
    for (name, bytes) in wanted {
        match fs::read(output.join(name)) {
            Ok(present) if present == *bytes => {}
            Ok(_) => drop(stale.insert(name.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                stale.insert(name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    if output.is_dir() {
        for entry in fs::read_dir(output)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !wanted.contains_key(&name) {
                stale.insert(name);
            }
        }
    }
    Ok(stale)
}

fn write(output: &Path, wanted: &Files, stale: &BTreeSet<String>) -> io::Result<()> {
    fs::create_dir_all(output)?;
    for name in stale {
        let path = output.join(name);
        match wanted.get(name) {
            Some(bytes) => fs::write(path, bytes)?,
            None => fs::remove_file(path)?,
        }
        println!("{OUTPUT}/{name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::FileDescriptorProto;

    fn proto() -> PathBuf {
        workspace_root().unwrap().join("proto")
    }

    #[test]
    fn the_committed_code_is_what_the_protos_generate() {
        Codegen { check: true }.execute().unwrap();
    }

    #[test]
    fn a_new_file_is_picked_up_and_a_lost_one_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let (proto, output) = (dir.path().join("proto"), dir.path().join("out"));
        fs::create_dir_all(proto.join("deep/er")).unwrap();
        fs::write(proto.join("deep/er/a.proto"), "syntax = \"proto3\"; package deep.er;").unwrap();
        let before = generate(&proto).unwrap();
        write(&output, &before, &difference(&output, &before).unwrap()).unwrap();
        assert!(difference(&output, &before).unwrap().is_empty());

        let source = "syntax = \"proto3\"; package other; message M { deep.er.E e = 1; }";
        fs::write(proto.join("b.proto"), format!("{source} import \"deep/er/a.proto\";")).unwrap();
        let source = "syntax = \"proto3\"; package deep.er; message E {}";
        fs::write(proto.join("deep/er/a.proto"), source).unwrap();
        fs::write(output.join("gone.rs"), "").unwrap();
        let after = generate(&proto).unwrap();
        let stale = difference(&output, &after).unwrap();
        for name in ["other.rs", "mod.rs", "gone.rs", "descriptors.bin"] {
            assert!(stale.contains(name), "{name} in {stale:?}");
        }
        write(&output, &after, &stale).unwrap();
        assert!(difference(&output, &after).unwrap().is_empty());
        assert!(!output.join("gone.rs").exists());
    }

    #[test]
    fn everything_in_the_protos_says_what_it_means() {
        let mut sources = Vec::new();
        find_protos(&proto(), &mut sources).unwrap();
        let names: BTreeSet<_> =
            sources.iter().map(|path| path.strip_prefix(proto()).unwrap().to_owned()).collect();
        let set = compile(&proto()).unwrap().file_descriptor_set();
        let silent: Vec<_> = set
            .file
            .iter()
            .filter(|file| names.contains(Path::new(file.name())))
            .flat_map(silent_items)
            .collect();
        assert!(silent.is_empty(), "without a comment: {silent:#?}");
    }

    /// Services, methods, messages and enums (top level) that no comment stands before.
    fn silent_items(file: &FileDescriptorProto) -> Vec<String> {
        let commented: BTreeSet<&[i32]> = file
            .source_code_info
            .iter()
            .flat_map(|info| &info.location)
            .filter(|location| location.leading_comments.is_some())
            .map(|location| location.path.as_slice())
            .collect();
        let mut items = Vec::new();
        // Field numbers of FileDescriptorProto: message_type 4, enum_type 5, service 6; method 2.
        for (i, message) in (0..).zip(&file.message_type) {
            items.push((vec![4, i], message.name()));
        }
        for (i, item) in (0..).zip(&file.enum_type) {
            items.push((vec![5, i], item.name()));
        }
        for (i, service) in (0..).zip(&file.service) {
            items.push((vec![6, i], service.name()));
            for (j, method) in (0..).zip(&service.method) {
                items.push((vec![6, i, 2, j], method.name()));
            }
        }
        items.retain(|(path, _)| !commented.contains(path.as_slice()));
        items.iter().map(|(_, name)| format!("{}: {name}", file.name())).collect()
    }
}
