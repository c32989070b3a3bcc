//! The installed sqlite3 shell writes into `items`, and the table refuses what breaks its rules.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use tidings_sqlite::DATABASE_FILE;

use crate::values::{next, open};

/// Runs statements; the shell's complaints where it has any.
fn shell(folder: &Path, statements: &str) -> Result<String, String> {
    let mut shell = Command::new("sqlite3")
        .args(["-bail", "-batch"])
        .arg(folder.join(DATABASE_FILE))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the sqlite3 shell is installed: cargo xtask test --install");
    shell.stdin.take().unwrap().write_all(statements.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() && complaint.is_empty() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(complaint),
    }
}

#[tokio::test]
async fn good_rows_are_taken_with_their_defaults_and_come_as_changes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let good = [
        ("insert into items (topic, message) values ('messages', 'hello')", "hello"),
        (
            "insert into items (topic, message) values ('messages', 'tab' || char(9, 13, 10) || ']]> 日本 🎉' || char(127, 133, 65533))",
            "tab\t\r\n]]> 日本 🎉\u{7f}\u{85}\u{fffd}",
        ),
        ("insert into items (topic, message, subject) values ('a-0', 'x', printf('%.99c', 'ä'))", "x"),
        (
            "insert into items (topic, message, attributes)
            values ('messages', 'y', '{\"a\": [1, \"x\", true], \"b\": 1.5e300, \"c\": \"\"}')",
            "y",
        ),
        ("insert into items (topic, message) values ('messages', printf('%.261120c', 'z'))", "z"),
        (
            "insert into items (topic, message, accepted_at, stored_at)
            values ('messages', 'leap', '2024-02-29T23:59:59.999Z', '2099-12-31T00:00:00.000Z')",
            "leap",
        ),
    ];
    for (statement, _) in good {
        shell(folder.path(), statement).unwrap_or_else(|complaint| panic!("{statement}: {complaint}"));
    }
    let mut stream = store.changes().open().await.unwrap();
    for (statement, text) in good {
        let captured = next(&mut *stream, 1).await.remove(0);
        let message = captured.content.unwrap_or_else(|why| panic!("{statement}: {why:?}")).item.message;
        let expected = if text == "z" { "z".repeat(261_120) } else { text.to_owned() };
        assert_eq!(message.text.as_str(), expected);
        assert_eq!(
            (message.id.0.get_version_num(), message.content_type.as_str()),
            (4, "text/plain; charset=utf-8")
        );
        stream.confirm(captured.position).await.unwrap();
    }
    // People can read what is stored.
    let row =
        shell(folder.path(), "select topic, message, accepted_at from items order by stored_at limit 1;")
            .unwrap();
    assert!(row.starts_with("messages|hello|20") && row.trim_end().ends_with('Z'), "{row}");
}

#[tokio::test]
async fn rows_that_break_a_rule_are_refused_by_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = "0198c0de-0000-7000-8000-000000000001";
    shell(folder.path(), &format!("insert into items (id, topic, message) values ('{id}', 'messages', 'x')"))
        .unwrap();
    let value = |column: &str, value: &str| {
        format!("insert into items (topic, message, {column}) values ('messages', 'x', {value})")
    };
    let message = |value: &str| format!("insert into items (topic, message) values ('messages', {value})");
    let topic = |value: &str| format!("insert into items (topic, message) values ({value}, 'x')");
    let mut bad = vec![
        // The message.
        message("''"),
        message("null"),
        message("x'6869'"),
        message("printf('%.261121c', 'z')"),
        message("'a' || char(0) || 'b'"),
        message("cast(x'610062' as text)"),
        message("cast(x'6100' as text)"),
        message("'a' || char(7)"),
        message("'a' || char(31)"),
        message("char(65534)"),
        message("'x' || char(65535)"),
        // The topic.
        topic("''"),
        topic("null"),
        topic("'Orders'"),
        topic("'0a'"),
        topic("'a_b'"),
        topic("'a b'"),
        topic("'ä'"),
        topic("printf('%.41c', 'a')"),
        topic("'a' || char(0)"),
        topic("cast(x'610042' as text)"),
        // The id.
        value("id", "'0198C0DE-0000-7000-8000-000000000002'"),
        value("id", "'0198c0de-0000-7000-8000-00000000000'"),
        value("id", "'0198c0de-0000-7000-8000-0000000000021'"),
        value("id", "'0198c0de000070008000000000000002----'"),
        value("id", "'0198c0de-0000-7000-8000-00000000000g'"),
        value("id", "'0198c0de-0000-7000-8000-00000000000' || char(0)"),
        value("id", "null"),
        value("id", &format!("'{id}'")),
        // The subject.
        value("subject", "''"),
        value("subject", "printf('%.100c', 'ä')"),
        value("subject", "'a' || char(10) || 'Bcc: b@example.com'"),
        value("subject", "'a' || char(13)"),
        value("subject", "'a' || char(133)"),
        value("subject", "'a' || char(8232)"),
        value("subject", "'a' || char(65535)"),
        value("subject", "'a' || char(0) || 'b'"),
        value("subject", "'a' || char(1)"),
        // The content type.
        value("content_type", "''"),
        value("content_type", "'text/plain' || char(10) || 'X: y'"),
        value("content_type", "printf('%.256c', 'a')"),
        // The attributes.
        value("attributes", "''"),
        value("attributes", "'[]'"),
        value("attributes", "'1'"),
        value("attributes", "'{\"a\": '"),
        value("attributes", "'{a: 1}'"),
        value("attributes", "'{\"a\": null}'"),
        value("attributes", "'{\"a\": {}}'"),
        value("attributes", "'{\"a\": [[1]]}'"),
        value("attributes", "'{\"a\": [null]}'"),
        value("attributes", "(select json_group_object('k' || value, 1) from generate_series(1, 33))"),
        // All together.
        "insert into items (topic, message, subject) values ('messages', printf('%.261119c', 'z'), 'ab')".to_owned(),
        "insert into items (topic, message, attributes) values ('messages', printf('%.261115c', 'z'), '{\"a\":1}')"
            .to_owned(),
        // Times and traces.
        value("accepted_at", "'yesterday'"),
        value("stored_at", "'2026-01-01T00:00:00Z'"),
        value("stored_at", "'2026-01-01T00:00:00.000+01:00'"),
        value("stored_at", "'1969-01-01T00:00:00.000Z'"),
        value("stored_at", "null"),
        value("stored_at", "'2026-02-30T29:59:59.999Z'"),
        value("stored_at", "'2026-02-30T23:59:59.999Z'"),
        value("accepted_at", "'2026-02-29T00:00:00.000Z'"),
        value("accepted_at", "'2026-12-31T24:00:00.000Z'"),
        value("accepted_at", "'2026-13-01T00:00:00.000Z'"),
        value("accepted_at", "'2026-00-10T00:00:00.000Z'"),
        value("traceparent", "'garbage'"),
        value("tracestate", "printf('%.257c', 'a')"),
        // Items are never updated, nor replaced.
        "update items set message = 'y'".to_owned(),
        format!("insert or replace into items (id, topic, message) values ('{id}', 'messages', 'y')"),
    ];
    // generate_series is the shell's own; this checks that its absence is not what refuses the 33 attributes.
    let many = "(select json_group_object('k' || value, 1) from generate_series(1, 32))";
    shell(folder.path(), &value("attributes", many)).unwrap();
    let before = shell(folder.path(), "select count(*), (select count(*) from changes) from items;").unwrap();
    for statement in bad.drain(..) {
        let complaint = shell(folder.path(), &statement).expect_err(&statement);
        assert!(
            complaint.contains("(19)") || complaint.contains("STRICT") || complaint.contains("cannot store"),
            "{statement}: {complaint}"
        );
    }
    let after = shell(folder.path(), "select count(*), (select count(*) from changes) from items;").unwrap();
    assert_eq!((before.as_str(), after), ("2|2\n", before.clone()), "nothing is half-stored");
    assert_eq!(store.items().list(&Default::default()).await.unwrap().data.len(), 2);
}
