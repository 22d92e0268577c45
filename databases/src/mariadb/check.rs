//! What would make a dump fail, or leave something out without a word.

use crate::error::DatabaseError;
use crate::mariadb::{Mariadb, identifier, literal};

/// Rights that a dump needs, and whether it leaves something out silently without it.
const RIGHTS: [(&str, bool); 5] = [
    // Tables that an account may not read are not there for it.
    ("SELECT", true),
    ("LOCK TABLES", false),
    ("SHOW VIEW", false),
    ("TRIGGER", true),
    ("EVENT", false),
];

/// What the account has been granted.
#[derive(Debug, Default)]
struct Grants {
    account: String,
    lines: Vec<(Vec<String>, String)>,
}

impl Mariadb {
    pub(super) fn find_obstacles(&self) -> Result<Vec<String>, DatabaseError> {
        let database = &self.settings.database;
        let names = ["mariadb-dump", "mysqldump"];
        let mut found = Vec::new();
        for error in [
            self.client(names, &["--version"], self.limits.probe)
                .answer()
                .err(),
            self.ask(&format!("USE {};", identifier(database))).err(),
        ]
        .into_iter()
        .flatten()
        {
            found.push(error.to_string());
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let grants = self.grants()?;
        let missing = RIGHTS
            .iter()
            .filter(|(right, _)| !grants.has(right, database));
        found.extend(missing.map(|(right, _)| grants.remedy(right, database)));
        found.extend(grants.routines(database));
        let others = self.not_transactional()?;
        found.extend(self.crashed(&others)?);
        found.extend(self.broken_views()?);
        Ok(found)
    }

    /// Views of which nobody can say what they have.
    fn broken_views(&self) -> Result<Vec<String>, DatabaseError> {
        let database = &self.settings.database;
        let views = self.ask(&format!(
            "SELECT table_name FROM information_schema.views WHERE table_schema={} ORDER BY table_name;",
            literal(database)
        ))?;
        let shown = views.into_iter().flatten().map(|view| {
            let view = format!("{}.{}", identifier(database), identifier(&view));
            self.ask(&format!("SHOW FIELDS FROM {view};")).err()
        });
        Ok(shown.flatten().map(|error| error.to_string()).collect())
    }

    /// What a dump would leave out, with exit code 0.
    pub(super) fn what_is_left_out(&self) -> Result<Vec<String>, DatabaseError> {
        let database = &self.settings.database;
        let grants = self.grants()?;
        let missing = RIGHTS
            .iter()
            .filter(|(right, is_silent)| *is_silent && !grants.has(right, database));
        let mut found: Vec<_> = missing
            .map(|(right, _)| grants.remedy(right, database))
            .collect();
        found.extend(grants.routines(database));
        Ok(found)
    }

    fn grants(&self) -> Result<Grants, DatabaseError> {
        let rows = self.ask("SELECT CURRENT_USER(); SHOW GRANTS;")?;
        let mut rows = rows.into_iter().filter_map(|row| row.into_iter().next());
        let mut grants = Grants {
            account: quoted(&rows.next().unwrap_or_default()),
            lines: Vec::new(),
        };
        grants.lines = rows.filter_map(|line| understand(&line)).collect();
        Ok(grants)
    }

    /// Tables that are not InnoDB can be crashed; opening one says so.
    fn crashed(&self, tables: &[String]) -> Result<Vec<String>, DatabaseError> {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let schema = identifier(&self.settings.database);
        let names = tables
            .iter()
            .map(|table| format!("{schema}.{}", identifier(table)));
        let list = names.collect::<Vec<_>>().join(",");
        let rows = self.ask(&format!("CHECK TABLE {list} FAST QUICK;"))?;
        let bad = rows
            .into_iter()
            .filter(|row| row.len() == 4 && row[2].eq_ignore_ascii_case("error"));
        Ok(bad
            .map(|row| {
                format!(
                    "the table {} is damaged ({}): run REPAIR TABLE on it, for a dump fails until then",
                    row[0], row[3]
                )
            })
            .collect())
    }
}

impl Grants {
    fn has(&self, right: &str, database: &str) -> bool {
        let covers = |on: &str| {
            on == "*.*"
                || on
                    .strip_suffix(".*")
                    .is_some_and(|schema| is_like(database, &unquote(schema)))
        };
        self.holds(right, covers)
    }

    fn holds(&self, right: &str, covers: impl Fn(&str) -> bool) -> bool {
        let is_it = |granted: &String| granted == right || granted.starts_with("ALL PRIVILEGES");
        self.lines
            .iter()
            .any(|(rights, on)| covers(on) && rights.iter().any(is_it))
    }

    /// What to do so that the bodies of routines can be read.
    fn routines(&self, database: &str) -> Option<String> {
        let proc = |on: &str| matches!(unquote(on).as_str(), "*.*" | "mysql.*" | "mysql.proc");
        let can_read = self.holds("SELECT", proc)
            || self.has("SHOW CREATE ROUTINE", database)
            || self.holds("SHOW_ROUTINE", |on| on == "*.*");
        (!can_read).then(|| {
            format!(
                "a dump of the database `{database}` would leave out its routines without saying so: GRANT SELECT ON mysql.proc TO {}; (MySQL 8: GRANT SHOW_ROUTINE ON *.*)",
                self.account
            )
        })
    }

    fn remedy(&self, right: &str, database: &str) -> String {
        format!(
            "the account lacks a right that a dump of the database `{database}` needs: GRANT {right} ON {}.* TO {};",
            identifier(database),
            self.account
        )
    }
}

/// `GRANT a, b ON x.y TO z`: rights, and on what.
fn understand(line: &str) -> Option<(Vec<String>, String)> {
    let (rights, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
    let (on, _) = rest.split_once(" TO ")?;
    let on = on.strip_prefix("TABLE ").unwrap_or(on).to_owned();
    let rights = rights.split(',').map(|right| right.trim().to_owned());
    Some((rights.collect(), on))
}

fn unquote(name: &str) -> String {
    name.replace('`', "")
}

/// `user@host`, as statements have it.
fn quoted(account: &str) -> String {
    match account.rsplit_once('@') {
        Some((user, host)) => format!("`{user}`@`{host}`"),
        None => account.to_owned(),
    }
}

/// Whether a pattern of a GRANT, with `%`, `_` and `\`, is that name.
fn is_like(name: &str, pattern: &str) -> bool {
    let mut pattern = pattern.chars();
    match pattern.next() {
        None => name.is_empty(),
        Some('%') => {
            let rest = pattern.as_str();
            let mut starts = name.char_indices().map(|(start, _)| start);
            is_like("", rest) || starts.any(|start| is_like(&name[start..], rest))
        }
        Some(first) => {
            let (is_any, first) = match first {
                '_' => (true, first),
                '\\' => (false, pattern.next().unwrap_or('\\')),
                other => (false, other),
            };
            let mut characters = name.chars();
            let fits = characters
                .next()
                .is_some_and(|character| is_any || character == first);
            fits && is_like(characters.as_str(), pattern.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_grants_are_understood() {
        assert!(is_like("my_site", r"my\_site"));
        assert!(!is_like("mysite", r"my\_site"));
        assert!(is_like("my_site", "my%"));
        assert!(is_like("x", "_"));
        assert!(!is_like("xy", "_"));
    }
}
