//! The settings are read, laid over one another and checked; faults are told together.

mod selfhosted;

use super::*;
use crate::profile::Role;

fn sources(variables: &[(&str, &str)]) -> Sources {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (_, path) = file.keep().unwrap();
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { file: Some(path), variables }
}

fn read(variables: &[(&str, &str)]) -> Result<Settings, Faults> {
    read_for(variables, &[])
}

fn read_for(variables: &[(&str, &str)], roles: &[Role]) -> Result<Settings, Faults> {
    let sources = sources(variables);
    let mut faults = Faults::default();
    let layers = layers(&sources, &mut faults);
    let settings = check(layers, Scope::Serve(roles), faults);
    std::fs::remove_file(sources.file.unwrap()).unwrap();
    settings
}

fn faults(variables: &[(&str, &str)]) -> String {
    read(variables).expect_err("these settings are wrong").to_string()
}

#[test]
fn the_defaults_file_says_what_the_code_says() {
    let bare = bare();
    let mut laid = bare.clone();
    let mut faults = Faults::default();
    laid.lay_file(&Origin::Default, DEFAULTS, &mut faults);
    assert!(faults.0.is_empty(), "{faults}");
    let mut differences = Vec::new();
    for (key, layered) in bare.iter() {
        let (code, file) = (&layered.value, &laid.get(key).value);
        let name = key.rsplit('.').next().unwrap();
        let is_named = DEFAULTS.lines().any(|line| {
            line.trim_start_matches("# ").split_once('=').is_some_and(|(left, _)| left.trim() == name)
        });
        if code != file || !is_named {
            differences
                .push(format!("{key}: {code} in the code, {file} in the file, named there: {is_named}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn every_setting_has_a_variable_of_its_own() {
    let layers = bare();
    let names: std::collections::BTreeSet<_> = layers.iter().map(|(key, _)| layers::variable(key)).collect();
    assert_eq!(names.len(), layers.iter().count());
}

#[test]
fn nothing_set_is_open_on_loopback() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.auth, Auth::Off { exposed: false });
    assert_eq!(settings.http_addr.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.admin_addr.to_string(), "127.0.0.1:9080");
}

#[test]
fn away_from_loopback_keys_are_required_unless_refused_by_name() {
    let elsewhere = ("TIDINGS_HTTP_ADDR", "0.0.0.0:8080");
    let text = faults(&[elsewhere]);
    assert!(text.contains("TIDINGS_ADMIN_KEY") && text.contains("TIDINGS_AUTH=off"), "{text}");
    let key = ("TIDINGS_ADMIN_KEY", "0123456789abcdef");
    assert_eq!(read(&[elsewhere, key]).unwrap().auth, Auth::Required);
    assert_eq!(read(&[elsewhere, ("TIDINGS_AUTH", "off")]).unwrap().auth, Auth::Off { exposed: true });
    assert!(faults(&[("TIDINGS_AUTH", "required")]).contains("TIDINGS_AUTH=off"));
}

#[test]
fn all_faults_come_together_and_no_secret_with_them() {
    let text = faults(&[
        ("TIDINGS_PROFILE", "aws"),
        ("TIDINGS_HTTP_ADDR", "here"),
        ("TIDINGS_NAMESPACE", "Tidings"),
        ("TIDINGS_SECRET", "hunter2hunter2"),
        ("TIDINGS_GRACE_S", "soon"),
        ("TIDINGS_MAIL_FROM", "nobody"),
        ("TIDINGS_LOG_FORMT", "json"),
    ]);
    for part in [
        "7 faults",
        "TIDINGS_PROFILE: this build of tidings does not have the profile aws",
        "TIDINGS_HTTP_ADDR: \"here\" is no IP address",
        "TIDINGS_NAMESPACE:",
        "TIDINGS_SECRET: this is 32 bytes",
        "TIDINGS_GRACE_S: invalid type: string \"soon\"",
        "TIDINGS_MAIL_FROM:",
        "the nearest is TIDINGS_LOG_FORMAT",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

/// With pages of nobody every message would be done with zero recipients.
#[test]
fn a_number_with_which_a_service_does_nothing_is_a_fault() {
    let text = faults(&[
        ("TIDINGS_MAILER_PAGE_SIZE", "0"),
        ("TIDINGS_MAILER_LEASE_MS", "0"),
        ("TIDINGS_SUBSCRIBER_RETENTION_DAYS", "0"),
        ("TIDINGS_API_CATALOG_REFRESH_MS", "0"),
    ]);
    assert!(text.contains("4 faults"), "{text}");
    assert!(text.contains("TIDINGS_MAILER_PAGE_SIZE: 0 is not between 1 and 10000"), "{text}");
}

#[test]
fn one_service_alone_on_embedded_is_a_fault() {
    let text = read_for(&[], &[Role::Api]).expect_err("alone").to_string();
    assert!(text.contains("api cannot run alone"), "{text}");
    assert!(read_for(&[], &Role::ALL).is_ok());
}

#[test]
fn a_secret_comes_from_a_file_and_never_from_two_places() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
    let path = file.path().to_str().unwrap();
    let settings = read(&[("TIDINGS_ADMIN_KEY_FILE", path)]).unwrap();
    assert_eq!(settings.admin_key.unwrap().expose(), "0123456789abcdef");
    let text = faults(&[("TIDINGS_ADMIN_KEY_FILE", path), ("TIDINGS_ADMIN_KEY", "0123456789abcdef")]);
    assert!(text.contains("set one of the two"), "{text}");
    assert!(faults(&[("SMTP_URL_FILE", "/nowhere/at/all")]).contains("cannot be read"));
}

#[test]
fn what_is_shown_hides_secrets() {
    let sources = sources(&[
        ("TIDINGS_ADMIN_KEY", "0123456789abcdef"),
        ("SMTP_URL", "smtp://user:hunter2@mail.example.com"),
    ]);
    let mut faults = Faults::default();
    let layers = layers(&sources, &mut faults);
    std::fs::remove_file(sources.file.unwrap()).unwrap();
    for shown in [report::text(&layers), report::json(&layers).to_string()] {
        assert!(!shown.contains("hunter2") && !shown.contains("0123456789abcdef"), "{shown}");
        assert!(shown.contains("mail.example.com") && shown.contains("TIDINGS_ADMIN_KEY"), "{shown}");
    }
}
