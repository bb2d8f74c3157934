//! Our wire interface against containerd's own. The other side is what Go clients are compiled
//! with, dumped by tests/go/descriptors; neither side has seen the other's .proto files.
//!
//! Compared is what decides bytes and names: packages, services, methods with their stream flags,
//! messages, fields (number, type, label, presence), enum values, extensions. Not compared: comments,
//! file names, order, options.

// Helpers of tests are tests too; clippy sees only the functions that the harness calls.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use gantry_api::DESCRIPTORS;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MessageOptions, ServiceDescriptorProto,
};

/// The first Go release whose toolchain builds containerd's api module.
const GO_MINIMUM: (u32, u32) = (1, 25);

#[test]
fn the_interface_is_containerds() {
    let theirs = match containerds_descriptors() {
        Ok(bytes) => FileDescriptorSet::decode(bytes.as_slice()).unwrap(),
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let (ours, theirs) = (facts(&ours()), facts(&theirs));
    assert!(theirs.len() > 1000, "the dump is not whole: {} facts", theirs.len());

    let missing: Vec<_> = theirs.difference(&ours).map(|fact| format!("  - {fact}")).collect();
    let extra: Vec<_> = ours.difference(&theirs).map(|fact| format!("  + {fact}")).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "proto/ differs from containerd (- theirs, + ours; a package from elsewhere has to be \
         imported in tests/go/descriptors/main.go):\n{}\n{}",
        missing.join("\n"),
        extra.join("\n")
    );
}

#[test]
fn a_difference_in_any_kind_of_fact_is_seen() {
    fn first<T>(items: &mut [T], wanted: impl Fn(&T) -> bool) -> &mut T {
        items.iter_mut().find(|item| wanted(item)).unwrap()
    }
    fn file<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut FileDescriptorProto {
        first(&mut set.file, |file| file.name() == name)
    }
    const CONTENT: &str = "containerd/services/content/v1/content.proto";
    const INGEST: &str = "containerd/services/content/v1/ingest.proto";
    const BOOTSTRAP: &str = "containerd/runtime/bootstrap/v1/bootstrap.proto";
    const EVENT: &str = "containerd/types/event.proto";
    type Change = (&'static str, fn(&mut FileDescriptorSet));
    let changes: [Change; 9] = [
        ("a package renamed", |set| file(set, CONTENT).package = Some("elsewhere".to_owned())),
        ("a message gone", |set| drop(file(set, INGEST).message_type.pop())),
        ("a field number", |set| file(set, INGEST).message_type[0].field[0].number = Some(99)),
        ("a field type", |set| {
            file(set, INGEST).message_type[0].field[2].set_type(Type::Bytes);
        }),
        ("a label", |set| file(set, INGEST).message_type[0].field[2].set_label(Label::Repeated)),
        ("presence", |set| {
            let message =
                first(&mut file(set, BOOTSTRAP).message_type, |m| m.name() == "BootstrapParams");
            first(&mut message.field, |f| f.name() == "socket_dir").proto3_optional = None;
        }),
        ("an enum value", |set| file(set, INGEST).enum_type[0].value[1].number = Some(7)),
        ("a stream flag", |set| {
            let methods = &mut file(set, CONTENT).service[0].method;
            first(methods, |m| m.name() == "Write").client_streaming = None;
        }),
        ("an extension", |set| file(set, EVENT).extension[0].number = Some(1)),
    ];
    for (what, change) in changes {
        let mut changed = ours();
        change(&mut changed);
        assert_ne!(facts(&changed), facts(&ours()), "{what}");
    }
}

#[test]
fn reflection_finds_every_import() {
    let ours = ours();
    let names: BTreeSet<_> = ours.file.iter().map(FileDescriptorProto::name).collect();
    for file in &ours.file {
        for import in &file.dependency {
            assert!(names.contains(import.as_str()), "{} imports {import}", file.name());
        }
    }
}

fn ours() -> FileDescriptorSet {
    FileDescriptorSet::decode(DESCRIPTORS).unwrap()
}

/// An encoded descriptor set, or why there is none here.
fn containerds_descriptors() -> Result<Vec<u8>, String> {
    let version = go(&["env", "GOVERSION"]).map_err(|error| error.to_string())?;
    if !version.status.success() {
        return Err("no Go on the PATH".to_owned());
    }
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    if go_version(&version).is_none_or(|version| version < GO_MINIMUM) {
        let (major, minor) = GO_MINIMUM;
        return Err(format!("Go {major}.{minor} or later is needed, found {version:?}"));
    }
    // Asked apart: modules that cannot be had are the machine's lack, a program that fails is ours.
    let listed = go(&["list", "-deps", "."]).map_err(|error| error.to_string())?;
    if !listed.status.success() {
        let stderr = String::from_utf8_lossy(&listed.stderr);
        return Err(format!("Go modules: {}", stderr.lines().next_back().unwrap_or("no reason")));
    }
    let run = go(&["run", "."]).map_err(|error| error.to_string())?;
    assert!(run.status.success(), "go run: {}", String::from_utf8_lossy(&run.stderr));
    Ok(run.stdout)
}

fn go(arguments: &[&str]) -> std::io::Result<Output> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/go/descriptors");
    // Bounded: fetching a module may hang.
    Command::new("timeout")
        .args(["-k", "5", "300", "go"])
        .args(arguments)
        .current_dir(program)
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .output()
}

/// (1, 26) of `go1.26.8`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix("go")?.split(['.', 'r', 'b', '-', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Packages that containerd does not have, or that come from a published crate.
fn is_outside(package: &str) -> bool {
    ["google.protobuf", "gantry."].iter().any(|prefix| package.starts_with(prefix))
}

/// One line for each fact, so that a difference reads by itself.
fn facts(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for file in set.file.iter().filter(|file| !is_outside(file.package())) {
        let package = file.package();
        facts.insert(format!("package {package}, {}", file.syntax()));
        for message in &file.message_type {
            message_facts(package, message, &mut facts);
        }
        for item in &file.enum_type {
            enum_facts(package, item, &mut facts);
        }
        for service in &file.service {
            service_facts(package, service, &mut facts);
        }
        for extension in &file.extension {
            let line = field_fact(package, extension, None);
            facts.insert(format!("extension of {}: {line}", extension.extendee()));
        }
    }
    facts
}

fn message_facts(scope: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    let is_map = message.options.as_ref().is_some_and(MessageOptions::map_entry);
    facts.insert(format!("message {name}{}", if is_map { " (a map's entry)" } else { "" }));
    for field in &message.field {
        let oneof = usize::try_from(field.oneof_index.unwrap_or(-1))
            .ok()
            .map(|index| message.oneof_decl[index].name());
        facts.insert(format!("field {}", field_fact(&name, field, oneof)));
    }
    for nested in &message.nested_type {
        message_facts(&name, nested, facts);
    }
    for nested in &message.enum_type {
        enum_facts(&name, nested, facts);
    }
}

fn field_fact(scope: &str, field: &FieldDescriptorProto, oneof: Option<&str>) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().to_owned(),
        scalar => format!("{scalar:?}"),
    };
    let packed = match field.options.as_ref().and_then(|options| options.packed) {
        Some(packed) => format!(", packed = {packed}"),
        None => String::new(),
    };
    let presence = if field.proto3_optional() { ", explicit presence" } else { "" };
    let oneof = oneof.map(|name| format!(", oneof {name}")).unwrap_or_default();
    format!(
        "{scope}.{} = {}: {:?} {kind}{packed}{presence}{oneof}",
        field.name(),
        field.number(),
        field.label(),
    )
}

fn enum_facts(scope: &str, item: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", item.name());
    facts.insert(format!("enum {name}"));
    for value in &item.value {
        facts.insert(format!("value {name}.{} = {}", value.name(), value.number()));
    }
}

fn service_facts(scope: &str, service: &ServiceDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", service.name());
    facts.insert(format!("service {name}"));
    let stream = |is_stream: bool| if is_stream { "stream " } else { "" };
    for method in &service.method {
        facts.insert(format!(
            "method {name}.{}({}{}) -> {}{}",
            method.name(),
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type(),
        ));
    }
}
