//! One broken header per rule of the format: each is refused, for its own reason.

mod support;

use luksmith_luks2::{FormatError, Header, HeaderCopy, ResolveError};
use support::faults::{self, Expected};
use support::{DATA, resolve_image};

#[test]
fn each_fault_is_refused_for_its_own_reason() {
    let mut wrong = Vec::new();
    for fault in faults::all() {
        let image = fault.image();
        let found = match Header::decode(&image, HeaderCopy::Primary, 0) {
            Ok(_) => Expected::Fine,
            Err(FormatError::Rule { rule, .. }) => Expected::Rule(rule),
            Err(FormatError::Json(_)) => Expected::Json,
            Err(other) => panic!("{}: {other}", fault.name),
        };
        if found != fault.expected {
            wrong.push(format!(
                "{}: expected {:?}, found {found:?}",
                fault.name, fault.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_fault_in_both_copies_is_no_header_and_in_one_copy_is_repaired_from_the_other() {
    let good = support::copies(support::sample().to_string().as_bytes());
    let half = good.len() / 2;
    for fault in faults::all()
        .iter()
        .filter(|fault| fault.expected != Expected::Fine)
    {
        let bad = fault.image();
        match resolve_image(&bad, DATA * 2) {
            Err(ResolveError::BothBad { .. }) => {}
            other => panic!("{}: {other:?}", fault.name),
        }
        for (copy, image) in [
            (HeaderCopy::Primary, [&bad[..half], &good[half..]].concat()),
            (
                HeaderCopy::Secondary,
                [&good[..half], &bad[half..]].concat(),
            ),
        ] {
            let resolved = resolve_image(&image, DATA * 2)
                .unwrap_or_else(|error| panic!("{}: {error}", fault.name));
            assert_eq!(resolved.in_force, copy.other(), "{}", fault.name);
            assert_eq!(
                resolved.repair.map(|repair| repair.copy),
                Some(copy),
                "{}",
                fault.name
            );
        }
    }
}

#[test]
fn every_rule_has_a_broken_header() {
    let covered: std::collections::BTreeSet<_> = faults::all()
        .iter()
        .filter_map(|fault| {
            if let Expected::Rule(rule) = fault.expected {
                Some(format!("{rule:?}"))
            } else {
                None
            }
        })
        .collect();
    // Read from the source, so that a rule cannot be added without a header that breaks it.
    let source = include_str!("../src/validate.rs");
    let body = source
        .split("pub enum Rule {")
        .nth(1)
        .and_then(|rest| rest.split('}').next())
        .expect("the enum");
    let missing: Vec<&str> = body
        .split(',')
        .map(str::trim)
        .filter(|r| !r.is_empty() && !covered.contains(*r))
        .collect();
    assert!(missing.is_empty(), "no fault breaks {missing:?}");
}

#[test]
fn fault_names_are_unique() {
    let mut names: Vec<_> = faults::all().iter().map(|fault| fault.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_foreign_text_in_an_error_is_escaped_and_cut() {
    let mut root = support::sample();
    root["keyslots"]["\u{1b}[2J".repeat(200)] = support::keyslot(548_864);
    let error = luksmith_luks2::Metadata::from_value(root, &support::geometry())
        .expect_err("the name is no number");
    let text = error.to_string();
    assert!(!text.contains('\u{1b}') && text.len() < 400, "{text}");
}
