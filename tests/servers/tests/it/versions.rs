//! Which servers tests ran against: where images are asked for, the versions that the images stand for.
#![expect(clippy::disallowed_methods, reason = "a variable asks for images")]
#![expect(clippy::print_stdout, reason = "which servers these are is shown with --nocapture")]

use tidings_servers::{Source, postgres::Postgres, rabbitmq::RabbitMq, redis::Redis};

/// Shows that it is of the image, and one of its versions, if that is what it should be.
fn assert_wanted(name: &str, source: &Source, version: &str, image: &str, begins: &str) {
    println!("{name} {version} from {source:?}");
    assert!(version.split('.').next().is_some_and(|number| number.parse::<u32>().is_ok()), "{version}");
    if std::env::var("TIDINGS_TEST_SERVERS").is_ok_and(|choice| choice == "images") {
        assert_eq!(*source, Source::Image(image.to_owned()), "{name}");
    }
    match source {
        Source::Image(of) => {
            assert_eq!(of, image, "{name}");
            assert!(version.starts_with(begins), "{image} holds {version}");
        }
        Source::Programs(folder) => assert!(folder.is_dir(), "{}", folder.display()),
        Source::Address(variable) => panic!("{name} was started and is not at {variable}"),
    }
}

#[tokio::test]
async fn with_postgres_it_is_the_version_that_was_asked_for() {
    let server = Postgres::start().await;
    assert_wanted("PostgreSQL", &server.source(), &server.version().await, "postgres:17-alpine", "17.");
}

#[tokio::test]
async fn with_rabbitmq_it_is_the_version_that_was_asked_for() {
    let server = RabbitMq::start().await;
    let image = "rabbitmq:4.3-management-alpine";
    assert_wanted("RabbitMQ", &server.source(), &server.version().await, image, "4.");
}

#[tokio::test]
async fn with_redis_it_is_the_version_that_was_asked_for() {
    let server = Redis::start().await;
    assert_wanted("Redis", &server.source(), &server.version().await, "redis:8-alpine", "8.");
}
