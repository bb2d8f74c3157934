//! Images: names that point to descriptors. What they point to need not exist.

use std::sync::Arc;

use gantry_core::filter::Filters;
use gantry_core::model::{Event, Image};
use gantry_core::{Cx, Digest, Error, FieldMask, ImageName, Labels, Namespace, Result, Timestamp};

use super::{leases, mask, namespaces};
use crate::schema::{IMAGE, Key, Parts};
use crate::{Metadata, Tx, View};

/// The label that makes an image collectable at a time; only such images are leased.
const EXPIRE: &str = "containerd.io/gc.expire";

pub(crate) fn key(namespace: &Namespace, name: &ImageName) -> Vec<u8> {
    Key::of(namespace).last(name.as_str())
}

fn missing(name: &ImageName) -> Error {
    Error::not_found(format!("image {name:?}"))
}

fn load(view: View<'_>, namespace: &Namespace, name: &ImageName) -> Result<Image> {
    view.get::<Image>(IMAGE, &key(namespace, name), name.clone())?.ok_or_else(|| missing(name))
}

fn check(image: &Image) -> Result<()> {
    for (label, value) in image.labels.iter() {
        gantry_core::labels::check_label(label, value).map_err(|e| e.context("image.Labels"))?;
    }
    if image.target.size <= 0 {
        return Err(Error::invalid_argument("target.Size must be greater than zero"));
    }
    if image.target.media_type.is_empty() {
        return Err(Error::invalid_argument("target.MediaType must be set"));
    }
    Ok(())
}

/// What an update sends.
#[derive(Clone, Debug)]
pub struct ImageUpdate {
    /// The image as sent.
    pub image: Image,
    /// What of it to take.
    pub mask: FieldMask,
    /// Time to record instead of now (`source_date_epoch`).
    pub at: Option<Timestamp>,
}

/// The images of all namespaces, each call within one.
#[derive(Clone, Debug)]
pub struct Images(Arc<Metadata>);

impl Images {
    /// The images in `metadata`.
    pub fn new(metadata: Arc<Metadata>) -> Self {
        Self(metadata)
    }

    /// The image `name`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, cx: &Cx, name: &ImageName) -> Result<Image> {
        let (namespace, name) = (cx.namespace().clone(), name.clone());
        self.0.read(move |view| load(view, &namespace, &name)).await
    }

    /// All images that match, in byte order of their names.
    ///
    /// # Errors
    /// `DataLoss` when a record is damaged.
    pub async fn list(&self, cx: &Cx, filters: Filters) -> Result<Vec<Image>> {
        let namespace = cx.namespace().clone();
        self.0
            .read(move |view| {
                let mut found = Vec::new();
                view.each_below(IMAGE, &Key::of(&namespace).prefix(), |key, value| {
                    let mut parts = Parts::of(key);
                    parts.identifier();
                    let name = ImageName::new(parts.last().unwrap_or_default())?;
                    let image = crate::codec::decode::<Image>(IMAGE, name, &value)?;
                    if filters.matches(&image) {
                        found.push(image);
                    }
                    Ok(())
                })?;
                Ok(found)
            })
            .await
    }

    /// Records `image`; its times are set to `at` or now.
    ///
    /// # Errors
    /// `InvalidArgument` naming the field; `AlreadyExists`.
    pub async fn create(&self, cx: &Cx, mut image: Image, at: Option<Timestamp>) -> Result<Image> {
        check(&image)?;
        let cx = cx.clone();
        self.0
            .update(move |tx| {
                let key = key(cx.namespace(), &image.name);
                if tx.view().contains(IMAGE, &key)? {
                    return Err(Error::already_exists(format!("image {:?}", image.name)));
                }
                namespaces::ensure(tx, cx.namespace())?;
                lease(tx, &cx, &image)?;
                image.created_at = at.unwrap_or(tx.now());
                image.updated_at = image.created_at;
                tx.put(IMAGE, &key, &image)?;
                let event = Event::ImageCreate {
                    name: image.name.as_str().to_owned(),
                    labels: image.labels.clone(),
                };
                tx.emit(cx.namespace(), event)?;
                Ok(image)
            })
            .await
    }

    /// Changes what the mask names, or without one everything but the time of creation.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` naming the field.
    pub async fn update(&self, cx: &Cx, update: ImageUpdate) -> Result<Image> {
        let cx = cx.clone();
        self.0
            .update(move |tx| {
                let ImageUpdate { image: sent, mask, at } = update;
                let mut updated = load(tx.view(), cx.namespace(), &sent.name)?;
                apply(&mut updated, sent, &mask)?;
                check(&updated)?;
                lease(tx, &cx, &updated)?;
                updated.updated_at = at.unwrap_or(tx.now());
                tx.put(IMAGE, &key(cx.namespace(), &updated.name), &updated)?;
                let event = Event::ImageUpdate {
                    name: updated.name.as_str().to_owned(),
                    labels: updated.labels.clone(),
                };
                tx.emit(cx.namespace(), event)?;
                Ok(updated)
            })
            .await
    }

    /// Removes the name. With `target`, only if it points there.
    ///
    /// # Errors
    /// `NotFound`, also when it points elsewhere.
    pub async fn delete(&self, cx: &Cx, name: &ImageName, target: Option<Digest>) -> Result<()> {
        let (cx, name) = (cx.clone(), name.clone());
        self.0
            .update(move |tx| {
                tx.frees();
                let image = load(tx.view(), cx.namespace(), &name)?;
                if let Some(target) = target.filter(|t| *t != image.target.digest) {
                    return Err(Error::not_found(format!(
                        "image {name:?} has target {}, not {target}",
                        image.target.digest
                    )));
                }
                tx.delete(IMAGE, &key(cx.namespace(), &name))?;
                leases::release(tx, &cx, "images", name.as_str())?;
                tx.emit(cx.namespace(), Event::ImageDelete { name: name.into_string() })
            })
            .await
    }
}

fn lease(tx: &mut Tx<'_, '_>, cx: &Cx, image: &Image) -> Result<()> {
    match image.labels.get(EXPIRE) {
        Some(_) => leases::hold(tx, cx, "images", image.name.as_str()),
        None => Ok(()),
    }
}

fn apply(updated: &mut Image, sent: Image, mask: &FieldMask) -> Result<()> {
    if mask.is_everything() {
        updated.labels = sent.labels;
        updated.target = sent.target;
        return Ok(());
    }
    for (field, key) in mask.paths() {
        match (field, key) {
            ("labels", Some(key)) => mask::set_label(&mut updated.labels, &sent.labels, key),
            ("labels", None) => updated.labels = sent.labels.clone(),
            ("target", None) => updated.target = sent.target.clone(),
            ("annotations", Some(key)) => {
                let mut annotations = Labels::unchecked(updated.target.annotations.clone());
                let sent = sent.target.annotations.get(key).cloned().unwrap_or_default();
                annotations.set(key, sent);
                updated.target.annotations = annotations.into_iter().collect();
            }
            ("annotations", None) => {
                updated.target.annotations.clone_from(&sent.target.annotations);
            }
            _ => {
                return Err(Error::invalid_argument(format!(
                    "cannot update {:?} field on image {:?}",
                    mask::whole(field, key),
                    sent.name
                )));
            }
        }
    }
    Ok(())
}
