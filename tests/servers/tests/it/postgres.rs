use tidings_servers::postgres::{Postgres, StopMode};

#[tokio::test]
async fn with_postgres_data_survives_every_end() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let database = url.rsplit('/').next().expect("a URL has a path");
    postgres.psql(database, "create table kept (number int); insert into kept values (1)").await;

    postgres.stop(StopMode::Fast).await;
    postgres.start_again().await;
    postgres.psql(database, "insert into kept values (2)").await;
    postgres.stop(StopMode::Immediate).await;
    postgres.start_again().await;
    postgres.psql(database, "insert into kept values (3)").await;
    postgres.kill().await;
    postgres.start_again().await;
    assert_eq!(postgres.psql(database, "select number from kept order by 1").await, "1\n2\n3");
}
