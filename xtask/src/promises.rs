//! `SPECIFICATION.md` makes no promise without a test.
//!
//! A promise is a row of a table, `| number | promise | tests |`; each test is a link
//! ``[`test_name`](path)`` to a function that exists in that file.

use std::collections::BTreeSet;

use crate::source::File;
use crate::tidy::resolve;

/// Where the promises stand.
pub const PATH: &str = "SPECIFICATION.md";

/// Findings: a promise without a test, with an absent one, or with a number used before.
pub fn check(files: &[File]) -> Vec<String> {
    let Some(specification) = files.iter().find(|file| file.path == PATH) else {
        return vec![format!("{PATH} is absent")];
    };
    let mut found = Vec::new();
    let mut numbers = BTreeSet::new();
    for (line_number, line) in (1..).zip(specification.text.lines()) {
        let Some(row) = line.strip_prefix("| ") else { continue };
        let cells: Vec<&str> = row.trim_end().trim_end_matches('|').split(" | ").collect();
        let [number, _promise, tests] = cells.as_slice() else {
            if !row.starts_with("---") {
                found.push(format!("{PATH}:{line_number}: a row has three cells"));
            }
            continue;
        };
        if number.trim() == "#" || number.starts_with("--") {
            continue;
        }
        if !numbers.insert(number.trim().to_owned()) {
            found.push(format!("{PATH}:{line_number}: number {number} is used twice"));
        }
        let tests: Vec<(&str, &str)> = links(tests).collect();
        if tests.is_empty() {
            found.push(format!("{PATH}:{line_number}: promise {number} has no test"));
        }
        for (name, path) in tests {
            let path = resolve(PATH, path);
            let declared = format!("fn {name}(");
            let exists = files.iter().any(|f| f.path == path && f.text.contains(&declared));
            if !exists {
                found.push(format!("{PATH}:{line_number}: no test {name} in {path}"));
            }
        }
    }
    if numbers.is_empty() {
        found.push(format!("{PATH}: promises nothing"));
    }
    found
}

fn links(cell: &str) -> impl Iterator<Item = (&str, &str)> {
    cell.split("[`").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once("`](")?;
        Some((name, rest.split(')').next()?))
    })
}
