//! What the daemon says it serves, by gRPC server reflection.

use std::collections::BTreeSet;

use prost_reflect::prost::Message;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// The descriptors of every service, with what they import.
pub(crate) async fn pool(channel: &Channel) -> DescriptorPool {
    let mut files: Vec<FileDescriptorProto> = Vec::new();
    for service in services(channel).await {
        fetch(channel, MessageRequest::FileContainingSymbol(service), &mut files).await;
    }
    while let Some(name) = missing(&files) {
        fetch(channel, MessageRequest::FileByFilename(name), &mut files).await;
    }
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(files).unwrap();
    pool
}

/// Every method as `package.Service/Name`.
pub(crate) fn methods(pool: &DescriptorPool) -> BTreeSet<String> {
    let methods = pool.services().flat_map(|service| {
        let name = service.full_name().to_owned();
        service.methods().map(|m| format!("{name}/{}", m.name())).collect::<Vec<_>>()
    });
    methods.collect()
}

/// The message that a method takes.
pub(crate) fn input(pool: &DescriptorPool, method: &str) -> MessageDescriptor {
    let (service, name) = method.split_once('/').unwrap();
    let service = pool.get_service_by_name(service).unwrap();
    let found = service.methods().find(|method| method.name() == name);
    found.unwrap().input()
}

async fn services(channel: &Channel) -> Vec<String> {
    match ask(channel, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(list) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("a list of services, not {other:?}"),
    }
}

async fn fetch(channel: &Channel, what: MessageRequest, files: &mut Vec<FileDescriptorProto>) {
    let answer = ask(channel, what.clone()).await;
    let MessageResponse::FileDescriptorResponse(found) = answer else {
        panic!("{what:?}: {answer:?}");
    };
    for bytes in found.file_descriptor_proto {
        let file = FileDescriptorProto::decode(bytes.as_slice()).unwrap();
        if files.iter().all(|known| known.name() != file.name()) {
            files.push(file);
        }
    }
}

async fn ask(channel: &Channel, what: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let stream = tokio_stream::once(request);
    let mut replies = client.server_reflection_info(stream).await.unwrap().into_inner();
    replies.message().await.unwrap().unwrap().message_response.unwrap()
}

fn missing(files: &[FileDescriptorProto]) -> Option<String> {
    let wanted = files.iter().flat_map(|file| &file.dependency);
    wanted.into_iter().find(|name| files.iter().all(|file| file.name() != *name)).cloned()
}
