//! One line of crypttab given to us and back, with everything else of the file left as it is.

/// A line of the table, as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// First field.
    pub name: String,
    /// The whole line, without its newline.
    pub text: String,
    /// Fourth field, cut at its commas.
    pub options: Vec<String>,
}

/// Ours: who opens the volume.
const OURS: &str = "luksmith";

/// Debian's word for "in the initramfs, whatever runs now", which cryptsetup's hook and ours know. Both
/// hooks else look at the running machine, and the one that is to take over never sees its own.
const IN_INITRAMFS: &str = "initramfs";

/// Options that adopting may add besides.
const CAME_ALONG: [&str; 2] = ["tpm2-device", "fixate-volume-key"];

/// An option without its value.
fn word(option: &str) -> &str {
    option.split('=').next().unwrap_or_default()
}

impl Line {
    /// Whether we open the volume.
    pub(super) fn is_ours(&self) -> bool {
        self.options.iter().any(|option| option == OURS)
    }

    /// Whether it is a volume that keeps its content: not a swap with a key of the day.
    pub(super) fn lasts(&self) -> bool {
        let random = self
            .text
            .split_ascii_whitespace()
            .nth(2)
            .is_some_and(|key| matches!(key, "/dev/urandom" | "/dev/random"));
        let daily = |option: &String| matches!(word(option), "plain" | "swap" | "tmp");
        !random && !self.options.iter().any(daily)
    }

    /// The line with our option, and with `more`, each unless its word is there; `early`: to be opened in
    /// the initramfs.
    pub(super) fn given(&self, early: bool, more: &[String]) -> String {
        let mut options = self.options.clone();
        let early = early.then(|| IN_INITRAMFS.to_string());
        for option in [OURS.to_string()]
            .into_iter()
            .chain(early)
            .chain(more.to_vec())
        {
            if !options.iter().any(|one| word(one) == word(&option)) {
                options.push(option);
            }
        }
        self.with(&options)
    }

    /// The line without our option and what came with it, by how the line was before. `initramfs` is there,
    /// before or not: while we serve the root, cryptsetup's hook finds the volume by that word alone.
    pub(super) fn given_back(&self, early: bool, before: Option<&Line>) -> String {
        let mut options = self.options.clone();
        options.retain(|option| option != OURS);
        if let Some(before) = before {
            let was_there = |option: &str| before.options.iter().any(|o| word(o) == word(option));
            options.retain(|option| !CAME_ALONG.contains(&word(option)) || was_there(option));
        }
        if early && !options.iter().any(|option| option == IN_INITRAMFS) {
            options.push(IN_INITRAMFS.to_string());
        }
        if options.is_empty() {
            options.push("luks".to_string());
        }
        self.with(&options)
    }

    /// The line with other options; blanks and what follows the fourth field stay.
    fn with(&self, options: &[String]) -> String {
        let options = options.join(",");
        let mut fields = 0;
        let mut inside = false;
        let mut begin = self.text.len();
        let mut end = self.text.len();
        for (at, c) in self.text.char_indices() {
            let blank = c.is_ascii_whitespace();
            if !blank && !inside {
                fields += 1;
                if fields == 4 {
                    begin = at;
                }
            }
            if blank && inside && fields == 4 && end == self.text.len() {
                end = at;
            }
            inside = !blank;
        }
        let (before, after) = (
            self.text.get(..begin).unwrap_or_default(),
            self.text.get(end.max(begin)..).unwrap_or_default(),
        );
        match fields {
            0..=2 => format!("{} none {options}", before.trim_end()),
            3 => format!("{} {options}", before.trim_end()),
            _ => format!("{before}{options}{after}"),
        }
    }
}

/// The lines that name a volume.
pub(super) fn lines(table: &str) -> Vec<Line> {
    let line = |text: &str| {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let name = fields.first().filter(|name| !name.starts_with('#'))?;
        let options = fields.get(3).unwrap_or(&"");
        Some(Line {
            name: (*name).to_string(),
            text: text.to_string(),
            options: options
                .split(',')
                .filter(|option| !option.is_empty())
                .map(str::to_string)
                .collect(),
        })
    };
    table.lines().filter_map(line).collect()
}

/// The table with one line in the place of another; none if that is not there, or twice.
pub(super) fn exchange(table: &str, old: &str, new: &str) -> Option<String> {
    if table.lines().filter(|line| *line == old).count() != 1 {
        return None;
    }
    let cut = |piece: &str| piece.strip_suffix('\n').unwrap_or(piece).to_string();
    Some(
        table
            .split_inclusive('\n')
            .map(|piece| match cut(piece) == old {
                true => piece.replacen(old, new, 1),
                false => piece.to_string(),
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# <target> <source>\n\nvda5_crypt UUID=1-2 none luks,discard\n\
                         \tswap\t/dev/vda3 /dev/urandom  swap,cipher=x  # daily\nhome UUID=3 none";

    #[test]
    fn a_line_goes_there_and_back_and_the_rest_of_the_table_stays() {
        let all = lines(TABLE);
        assert_eq!(
            all.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(),
            ["vda5_crypt", "swap", "home"]
        );
        let root = &all[0];
        let given = root.given(true, &[]);
        assert_eq!(
            given,
            "vda5_crypt UUID=1-2 none luks,discard,luksmith,initramfs"
        );
        let table = exchange(TABLE, &root.text, &given).unwrap();
        let ours = lines(&table).remove(0);
        assert!(ours.is_ours() && !root.is_ours());
        assert_eq!(ours.given(true, &[]), given, "twice is once");
        let back = exchange(&table, &given, &ours.given_back(true, None)).unwrap();
        assert_eq!(
            back,
            TABLE.replacen("discard", "discard,initramfs", 1),
            "and nothing else"
        );
    }

    #[test]
    fn what_came_along_goes_again_and_what_was_there_stays() {
        let more = ["tpm2-device=auto", "fixate-volume-key=ab"].map(str::to_string);
        let before = &lines("a UUID=1 none luks,tpm2-device=/dev/tpm1")[0];
        let given = before.given(true, &more);
        assert_eq!(
            given,
            "a UUID=1 none luks,tpm2-device=/dev/tpm1,luksmith,initramfs,fixate-volume-key=ab"
        );
        let given = &lines(&given)[0];
        assert_eq!(
            given.given_back(true, Some(before)),
            "a UUID=1 none luks,tpm2-device=/dev/tpm1,initramfs"
        );
        assert!(
            given.given_back(true, None).contains("fixate"),
            "nobody knows whose it was"
        );
    }

    #[test]
    fn fields_that_are_missing_are_filled_and_odd_blanks_and_comments_stay() {
        let all = lines(TABLE);
        assert_eq!(all[2].given(false, &[]), "home UUID=3 none luksmith");
        assert_eq!(
            all[1].given(false, &[]),
            "\tswap\t/dev/vda3 /dev/urandom  swap,cipher=x,luksmith  # daily"
        );
        assert_eq!(
            lines("a /dev/b")[0].given(false, &[]),
            "a /dev/b none luksmith"
        );
        assert_eq!(
            lines("a /dev/b none luksmith")[0].given_back(false, None),
            "a /dev/b none luks"
        );
    }

    #[test]
    fn what_is_made_anew_each_day_is_no_volume_of_ours() {
        let all = lines(TABLE);
        assert_eq!(
            all.iter().map(Line::lasts).collect::<Vec<_>>(),
            [true, false, true]
        );
    }

    #[test]
    fn a_line_that_changed_meanwhile_or_is_there_twice_is_not_exchanged() {
        assert_eq!(exchange("a b c d\n", "a b c", "x"), None);
        assert_eq!(exchange("a b\na b\n", "a b", "x"), None);
        assert_eq!(exchange("a b", "a b", "x").as_deref(), Some("x"));
    }
}
