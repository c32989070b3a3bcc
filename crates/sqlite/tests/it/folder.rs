//! One server a folder, and folders that are no good.

use std::process::Command;

use tidings_domain::{ErrorKind, ports::DependencyState};
use tidings_sqlite::DATABASE_FILE;

use crate::values::{consumer, foreign, open, publish, receive, try_open};

#[tokio::test]
async fn a_second_server_is_refused_until_the_first_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).await;
    let refused = try_open(folder.path()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured);
    let text = refused.to_string();
    assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
    assert!(text.contains("another Tidings server") && text.contains("TIDINGS_DATA_DIR"), "{text}");
    publish(&*first.bus(), &["goes on"]).await.remove(0).unwrap();
    first.close().await;
    let second = open(folder.path()).await;
    assert_eq!(receive(&*consumer(&second).await, 1).await[0].envelope.body, "goes on");
}

#[tokio::test]
async fn after_close_the_file_alone_is_whole_and_every_port_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (bus, items) = (store.bus(), store.items());
    publish(&*bus, &["kept"]).await.remove(0).unwrap();
    store.close().await;
    assert_eq!(publish(&*bus, &["late"]).await.remove(0).unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(items.ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join(DATABASE_FILE), copy.path().join(DATABASE_FILE)).unwrap();
    let copied = open(copy.path()).await;
    assert_eq!(receive(&*consumer(&copied).await, 1).await[0].envelope.body, "kept");
}

#[tokio::test]
async fn garbage_is_refused_with_the_file_and_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(DATABASE_FILE), "this is no database, ".repeat(500)).unwrap();
    let refused = try_open(folder.path()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured);
    let text = refused.chain();
    assert!(text.contains(DATABASE_FILE) && text.contains("damaged") && text.contains("restore"), "{text}");
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.close().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'later', TRUE, x'00', 0)",
    )
    .execute(&mut foreign(folder.path()).await)
    .await
    .unwrap();
    let refused = try_open(folder.path()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured);
    assert!(refused.to_string().contains("9999"), "{refused}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = try_open(&file.join("data")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured);
    assert!(refused.to_string().contains("file/data"), "{refused}");
}

/// A folder that cannot be written: mounted read-only, for root, to whom rights mean nothing; else without the right; and
/// where root may not mount, a place where nobody can make one.
struct ReadOnly {
    folder: tempfile::TempDir,
    mounted: bool,
}

impl ReadOnly {
    fn make() -> (Self, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs"]).arg(folder.path()).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        let path = folder.path().to_owned();
        let read_only = Self { folder, mounted };
        if mounted {
            return (read_only, path);
        }
        let mut rights = std::fs::metadata(&path).unwrap().permissions();
        rights.set_readonly(true);
        std::fs::set_permissions(&path, rights).unwrap();
        match std::fs::write(path.join("probe"), "") {
            Ok(()) => (read_only, "/proc/tidings-data".into()),
            Err(_) => (read_only, path),
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if self.mounted {
            let _unmounted = Command::new("umount").arg(self.folder.path()).status();
        }
    }
}

#[tokio::test]
async fn a_read_only_folder_is_refused_with_the_mend() {
    let (_read_only, path) = ReadOnly::make();
    let refused = try_open(&path).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured);
    let text = refused.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("TIDINGS_DATA_DIR"), "{text}");
}

#[tokio::test]
async fn an_open_store_is_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.dependency().name(), "sqlite");
    assert_eq!(store.dependency().state(), DependencyState::Up);
}

#[tokio::test]
async fn a_new_folder_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new").join("data");
    let _store = open(&data).await;
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_check_writes_nothing_and_works_beside_a_server() {
    let folder = tempfile::tempdir().unwrap();
    assert!(tidings_sqlite::Store::check(folder.path()).await.is_err(), "there is nothing yet");
    let store = crate::values::open(folder.path()).await;
    let version = tidings_sqlite::Store::check(folder.path()).await.unwrap();
    store.close().await;
    let file = folder.path().join(tidings_sqlite::DATABASE_FILE);
    let before = std::fs::read(&file).unwrap();
    assert_eq!(tidings_sqlite::Store::check(folder.path()).await.unwrap(), version);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let mut log = file.clone().into_os_string();
    log.push("-wal");
    assert!(!std::path::Path::new(&log).exists(), "a look leaves no log");
    let forgotten = "DELETE FROM _sqlx_migrations WHERE version = 6";
    sqlx::query(forgotten).execute(&mut crate::values::foreign(folder.path()).await).await.unwrap();
    let error = tidings_sqlite::Store::check(folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("5 of 6 migrations"), "{error}");
}
