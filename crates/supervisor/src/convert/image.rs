//! Images and descriptors.

use gantry_api::containerd::services::images::v1 as wire;
use gantry_api::containerd::types;
use gantry_core::model::{Descriptor, Image};
use gantry_core::{Digest, Error, FieldMask, ImageName, Result, Timestamp};

/// A descriptor in `field`.
///
/// # Errors
/// `InvalidArgument` for the digest.
pub fn descriptor(field: &str, sent: types::Descriptor) -> Result<Descriptor> {
    let digest = Digest::parse(sent.digest.as_str()).map_err(|error| {
        Error::invalid_argument(format!("{field}.Digest {:?} invalid: {error}", sent.digest))
    })?;
    Ok(Descriptor {
        media_type: sent.media_type,
        digest,
        size: sent.size,
        annotations: sent.annotations.into_iter().collect(),
    })
}

/// As clients get it.
pub fn descriptor_to_wire(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.as_str().to_owned(),
        size: descriptor.size,
        annotations: descriptor.annotations.into_iter().collect(),
    }
}

/// As a client sends it to be created; its times are not taken over.
///
/// # Errors
/// `InvalidArgument` for the name or the target's digest.
pub fn from_wire(sent: wire::Image) -> Result<Image> {
    let target = descriptor("target", sent.target.unwrap_or_default())?;
    with_target(sent.name, sent.labels, target)
}

/// As a client sends it to change what `mask` names: it may leave out the target's digest when
/// that is not changed.
///
/// # Errors
/// As [`from_wire`].
pub fn update_from_wire(sent: wire::Image, mask: &FieldMask) -> Result<Image> {
    let replaced = mask.is_everything() || mask.paths().any(|(field, _)| field == "target");
    let mut target = sent.target.unwrap_or_default();
    if !replaced {
        // Stands for "not sent"; the store takes nothing but annotations from this target.
        Digest::of(b"").as_str().clone_into(&mut target.digest);
    }
    with_target(sent.name, sent.labels, descriptor("target", target)?)
}

fn with_target(
    name: String,
    labels: std::collections::HashMap<String, String>,
    target: Descriptor,
) -> Result<Image> {
    if name.is_empty() {
        return Err(Error::invalid_argument("Image.Name required"));
    }
    Ok(Image {
        name: ImageName::new(name)?,
        labels: super::labels_unchecked(labels),
        target,
        created_at: Timestamp::UNSET,
        updated_at: Timestamp::UNSET,
    })
}

/// The name of an image that should exist. An empty one names none.
///
/// # Errors
/// `NotFound`.
pub fn existing(name: String) -> Result<ImageName> {
    ImageName::new(name).map_err(|_| Error::not_found("image \"\""))
}

/// As clients get it.
pub fn to_wire(image: Image) -> wire::Image {
    wire::Image {
        name: image.name.into_string(),
        labels: super::labels(image.labels),
        target: Some(descriptor_to_wire(image.target)),
        created_at: super::time(image.created_at),
        updated_at: super::time(image.updated_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask::new(paths.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_update_of_labels_needs_no_target() {
        let sent = wire::Image { name: "i".into(), ..wire::Image::default() };
        for paths in [&["labels"][..], &["labels.a"], &["annotations.b", "labels"]] {
            update_from_wire(sent.clone(), &mask(paths)).unwrap();
        }
        for paths in [&[][..], &["target"], &["labels", "target"]] {
            let text = update_from_wire(sent.clone(), &mask(paths)).unwrap_err().message();
            assert!(text.starts_with("target.Digest \"\" invalid"), "{text}");
        }
    }

    #[test]
    fn a_name_is_required() {
        let target = types::Descriptor {
            digest: Digest::of(b"x").as_str().to_owned(),
            ..types::Descriptor::default()
        };
        let sent = wire::Image { target: Some(target), ..wire::Image::default() };
        let text = from_wire(sent).unwrap_err().message();
        assert_eq!(text, "Image.Name required: invalid argument");
    }
}
