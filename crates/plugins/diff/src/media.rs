//! Media types of layers and how each becomes a tar stream.
//!
//! A layer's type names the steps from its bytes to a tar: none, inflate, or an executable that
//! the configuration names. Unlike containerd we refuse a suffix we do not know instead of
//! reading, say, encrypted bytes as a tar: the caller learns at once and may try another differ.

use gantry_core::{Error, Result};

use crate::processor::StreamProcessor;

/// The type of the tar that every chain ends in.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The type of a gzip-compressed layer; the default of a diff.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The type of a zstd-compressed layer.
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

const LAYER_NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// How the bytes of a layer hold a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// They are one.
    Plain,
    /// Compressed, or not: types have been wrong about it, so the first bytes decide.
    Compressed,
}

/// How the bytes of a layer of `media_type` hold a tar; `None` for a type not known here.
pub(crate) fn encoding(media_type: &str) -> Option<Encoding> {
    let known = match media_type.split_once('+') {
        None => match media_type {
            LAYER | LAYER_NONDISTRIBUTABLE => Encoding::Plain,
            DOCKER | DOCKER_FOREIGN => Encoding::Compressed,
            _ => {
                let base = media_type.strip_suffix(".gzip").or(media_type.strip_suffix(".zstd"));
                return matches!(base, Some(DOCKER | DOCKER_FOREIGN))
                    .then_some(Encoding::Compressed);
            }
        },
        Some((LAYER | LAYER_NONDISTRIBUTABLE, "gzip" | "zstd")) => Encoding::Compressed,
        Some(_) => return None,
    };
    Some(known)
}

/// The refusal of a layer that nothing here reads.
pub(crate) fn no_processor(media_type: &str) -> Error {
    Error::not_implemented(format!(
        "failed to get stream processor for {media_type}: no processor for media-type"
    ))
}

/// The executables that a layer of `media_type` goes through, each with the type it gets, and how
/// the last one's output holds a tar.
///
/// # Errors
/// `NotImplemented` when nothing reads it, or executables only pass it round.
pub(crate) fn chain<'a>(
    media_type: &'a str,
    processors: &'a [StreamProcessor],
) -> Result<(Vec<(&'a StreamProcessor, &'a str)>, Encoding)> {
    /// More than any sensible chain has; two that answer each other would never end.
    const STEPS_MAX: usize = 16;
    let mut steps = Vec::new();
    let mut current = media_type;
    while steps.len() < STEPS_MAX {
        let takes = |p: &&StreamProcessor| p.accepts.iter().any(|accepted| accepted == current);
        let Some(processor) = processors.iter().rev().find(takes) else {
            let encoding = encoding(current).ok_or_else(|| no_processor(media_type))?;
            return Ok((steps, encoding));
        };
        steps.push((processor, current));
        current = &processor.returns;
        if current == LAYER {
            return Ok((steps, Encoding::Plain));
        }
    }
    Err(no_processor(media_type))
}

/// What a diff is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The compression of a diff of `media_type` and the type in full.
///
/// # Errors
/// `NotImplemented` for a type that diffs are not written as.
pub(crate) fn diff_type(media_type: &str) -> Result<(&'static str, Compression)> {
    match media_type {
        "" | LAYER_GZIP => Ok((LAYER_GZIP, Compression::Gzip)),
        LAYER => Ok((LAYER, Compression::None)),
        LAYER_ZSTD => Ok((LAYER_ZSTD, Compression::Zstd)),
        other => Err(Error::not_implemented(format!("unsupported diff media type: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_name_their_encoding() {
        use Encoding::{Compressed, Plain};
        for (media_type, expected) in [
            (LAYER, Some(Plain)),
            (LAYER_GZIP, Some(Compressed)),
            (LAYER_ZSTD, Some(Compressed)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compressed)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Compressed)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compressed)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compressed)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compressed)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tar.gzip", None),
            ("application/vnd.erofs.layer.v1", None),
            ("", None),
        ] {
            assert_eq!(encoding(media_type), expected, "{media_type}");
        }
        assert_eq!(
            no_processor("x/y").message(),
            "failed to get stream processor for x/y: no processor for media-type: not implemented"
        );
    }
}
