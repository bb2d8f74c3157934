//! `format/`: values of earlier mounts in the texts of a later one.
//!
//! Between `{{` and `}}` stands one of four words with its numbers; a list counts from 0. These are
//! what snapshotters write; nothing else of Go's templates is taken.
//!
//! | text | becomes |
//! |---|---|
//! | `{{ source I }}`, `{{ target I }}` | source, target of mount I |
//! | `{{ mount I }}` | where mount I stands |
//! | `{{ overlay I J }}` | where mounts I to J stand, joined by colons; J may be the smaller |

use gantry_core::snapshot::Mount;
use gantry_core::{Error, Result};
use gantry_metadata::stores::ActiveMount;

/// Fills in what `mount` names of the mounts in `active`.
///
/// # Errors
/// `InvalidArgument` that quotes the text and says what is wrong with it.
pub(crate) fn apply(mut mount: Mount, active: &[ActiveMount]) -> Result<Mount> {
    mount.source = filled(&mount.source, active)?;
    mount.target = filled(&mount.target, active)?;
    for option in &mut mount.options {
        *option = filled(option, active)?;
    }
    Ok(mount)
}

fn filled(text: &str, active: &[ActiveMount]) -> Result<String> {
    let bad = |what: String| Error::invalid_argument(format!("format {text:?}: {what}"));
    let (mut output, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) =
            after.split_once("}}").ok_or_else(|| bad("\"{{\" without \"}}\"".to_owned()))?;
        output.push_str(before);
        output.push_str(&value(action, active).map_err(bad)?);
        rest = after;
    }
    output.push_str(rest);
    Ok(output)
}

fn value(action: &str, active: &[ActiveMount]) -> Result<String, String> {
    let mut words = action.split_whitespace();
    let word = words.next().unwrap_or_default();
    let numbers: Vec<i64> = words
        .map(|word| word.parse().map_err(|_| format!("{word:?} is not a number")))
        .collect::<Result<_, _>>()?;
    let at = |index: i64| {
        usize::try_from(index).ok().and_then(|index| active.get(index)).ok_or_else(|| {
            format!("index out of bounds: {index}, has {} active mounts", active.len())
        })
    };
    match (word, numbers.as_slice()) {
        ("source", [index]) => at(*index).map(|active| active.mount.source.clone()),
        ("target", [index]) => at(*index).map(|active| active.mount.target.clone()),
        ("mount", [index]) => at(*index).map(|active| active.mount_point.clone()),
        ("overlay", [from, to]) => {
            // Both ends first: the numbers between two good ones are good.
            at(*from)?;
            at(*to)?;
            let mut indices: Vec<i64> = (*from.min(to)..=*from.max(to)).collect();
            if from > to {
                indices.reverse();
            }
            let points: Result<Vec<&str>, String> =
                indices.into_iter().map(|index| Ok(at(index)?.mount_point.as_str())).collect();
            Ok(points?.join(":"))
        }
        _ => Err(format!(
            "{:?} is none of \"source I\", \"target I\", \"mount I\", \"overlay I J\"",
            action.trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::{Kind, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn active(count: usize) -> Vec<ActiveMount> {
        let mount = |i: usize| Mount {
            kind: "erofs".to_owned(),
            source: format!("/layer{i}"),
            target: format!("t{i}"),
            options: vec![],
        };
        (0..count)
            .map(|i| ActiveMount {
                mount: mount(i),
                mounted_at: Timestamp::UNSET,
                mount_point: format!("/run/m/7/{i}"),
            })
            .collect()
    }

    #[track_caller]
    fn is(text: &str, wanted: &str) {
        assert_eq!(filled(text, &active(3)).unwrap(), wanted);
    }

    #[track_caller]
    fn fails(text: &str, wanted: &str) {
        let error = filled(text, &active(3)).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.message().contains(wanted), "{}", error.message());
    }

    #[test]
    fn what_snapshotters_write_is_filled_in() {
        is("lowerdir={{ overlay 2 0 }}", "lowerdir=/run/m/7/2:/run/m/7/1:/run/m/7/0");
        is("{{overlay 0 1}}:/x", "/run/m/7/0:/run/m/7/1:/x");
        is("{{ overlay 1 1 }}", "/run/m/7/1");
        is("{{ mount 0 }}/upper", "/run/m/7/0/upper");
        is("{{ source 1 }},{{ target 2 }}", "/layer1,t2");
        is("no braces, } or {", "no braces, } or {");
        is("", "");
    }

    #[test]
    fn whatever_else_is_refused_with_its_reason() {
        fails("{{ mount 3 }}", "index out of bounds: 3, has 3 active mounts");
        fails("{{ mount -1 }}", "index out of bounds: -1");
        fails("{{ overlay 0 9223372036854775807 }}", "index out of bounds");
        fails("{{ mount 0", "without");
        fails("{{}}", "none of");
        fails("{{ mount }}", "none of");
        fails("{{ overlay 0 }}", "none of");
        fails("{{ printf \"x\" }}", "not a number");
        fails("{{ mount 1e3 }}", "\"1e3\" is not a number");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_none_is_changed_without_braces(text in ".{0,60}") {
            let result = filled(&text, &active(2));
            if !text.contains("{{") {
                prop_assert_eq!(result.unwrap(), text);
            }
        }
        #[test]
        fn no_action_panics(action in "(source|target|mount|overlay|x)?( -?[0-9]{1,20}){0,3}") {
            let _ = filled(&format!("{{{{{action}}}}}"), &active(2));
        }
    }
}
