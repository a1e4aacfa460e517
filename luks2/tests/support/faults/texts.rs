//! The text itself.

use luksmith_luks2::Rule;

use super::super::sample;
use super::Expected;

/// Each with its expectation.
pub(super) fn texts() -> Vec<(&'static str, Expected, String)> {
    let good = sample().to_string();
    let insert = |text: &str| format!("{{{text},{}", &good[1..]);
    let nested = |levels: usize| {
        insert(&format!(
            "\"x\":{}1{}",
            "[".repeat(levels),
            "]".repeat(levels)
        ))
    };
    vec![
        ("text-empty", Expected::Json, String::new()),
        ("text-is-array", Expected::Json, "[]".into()),
        (
            "text-is-empty-object",
            Expected::Rule(Rule::MemberMissing),
            "{}".into(),
        ),
        (
            "text-cut-short",
            Expected::Json,
            good[..good.len() - 1].into(),
        ),
        (
            "text-with-white-space-behind",
            Expected::Json,
            format!("{good} "),
        ),
        (
            "text-with-white-space-before",
            Expected::Json,
            format!(" {good}"),
        ),
        ("text-twice", Expected::Json, format!("{good}{good}")),
        (
            "text-with-white-space-inside",
            Expected::Fine,
            good.replace(':', " :\n\t"),
        ),
        (
            "text-with-comment",
            Expected::Json,
            insert("/* hello */ \"x\":1"),
        ),
        (
            "text-with-trailing-comma",
            Expected::Json,
            format!("{},}}", &good[..good.len() - 1]),
        ),
        ("text-with-single-quotes", Expected::Json, insert("'x':1")),
        ("text-with-nan", Expected::Json, insert("\"x\":NaN")),
        (
            "text-with-infinity",
            Expected::Json,
            insert("\"x\":-Infinity"),
        ),
        (
            "text-with-leading-zero",
            Expected::Json,
            insert("\"x\":007"),
        ),
        (
            "text-with-tab-in-string",
            Expected::Json,
            insert("\"x\":\"a\tb\""),
        ),
        (
            "text-with-lone-surrogate",
            Expected::Json,
            insert("\"x\":\"\\ud800\""),
        ),
        (
            "text-with-duplicate-member",
            Expected::Json,
            insert("\"x\":1,\"x\":2"),
        ),
        (
            "text-with-duplicate-section",
            Expected::Json,
            insert("\"tokens\":{}"),
        ),
        (
            "text-with-duplicate-by-escape",
            Expected::Json,
            insert("\"x\":1,\"\\u0078\":2"),
        ),
        (
            "text-with-duplicate-keyslot",
            Expected::Json,
            good.replacen("\"1\":{", "\"0\":{", 1),
        ),
        ("text-32-levels-deep", Expected::Fine, nested(30)),
        ("text-33-levels-deep", Expected::Json, nested(31)),
        ("text-3000-levels-deep", Expected::Json, nested(3000)),
        (
            "text-with-number-of-65-bits",
            Expected::Json,
            insert("\"x\":18446744073709551616"),
        ),
        (
            "text-with-number-of-64-bits",
            Expected::Fine,
            insert("\"x\":18446744073709551615"),
        ),
        (
            "text-with-number-out-of-range",
            Expected::Json,
            insert("\"x\":1e999"),
        ),
        (
            "text-with-escaped-slash",
            Expected::Fine,
            insert("\"x\":\"a\\/b\""),
        ),
    ]
}
