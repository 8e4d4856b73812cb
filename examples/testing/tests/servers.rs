//! The servers themselves: others' tests rest on what they do here.

use std::net::SocketAddr;

use sqlx::{AnyConnection, Connection, Executor, Row};
use testing::{MariaDb, Postgres, RabbitMq, eventually};
use tokio::net::TcpStream;

async fn database(url: &str) -> AnyConnection {
    AnyConnection::connect(url).await.expect("it answers")
}

/// Writes a row, and has a connection that hangs while the server is frozen.
async fn write(url: &str, freeze: impl FnOnce(), thaw: impl FnOnce()) {
    let mut connection = database(url).await;
    connection.execute("CREATE TABLE kept (id INT)").await.expect("a table");
    freeze();
    let mut insert = connection.execute("INSERT INTO kept VALUES (7)");
    let answer = tokio::time::timeout(std::time::Duration::from_millis(100), &mut insert).await;
    assert!(answer.is_err(), "it is frozen");
    thaw();
    insert.await.expect("it goes on");
}

async fn read(url: &str) -> i32 {
    let mut connection = database(url).await;
    let row = connection.fetch_one("SELECT id FROM kept").await.expect("the row");
    row.get(0)
}

async fn is_gone(address: SocketAddr) {
    eventually(|| async { TcpStream::connect(address).await.is_err().then_some(()) }).await;
}

#[tokio::test]
async fn postgres_keeps_what_was_committed() {
    let Some(mut postgres) = Postgres::start().await else { return };
    let url = postgres.url_of("things").await;
    write(&url, || postgres.freeze(), || postgres.thaw()).await;
    postgres.stop();
    is_gone(postgres.address()).await;
    postgres.start_again().await;
    assert_eq!(read(&url).await, 7);
    let another = postgres.url_of("things").await;
    assert!(database(&another).await.execute("SELECT id FROM kept").await.is_err(), "it is empty");
    let address = postgres.address();
    drop(postgres);
    is_gone(address).await;
}

#[tokio::test]
async fn mariadb_keeps_what_was_committed() {
    let Some(mut mariadb) = MariaDb::start().await else { return };
    let url = mariadb.url_of("things").await;
    write(&url, || mariadb.freeze(), || mariadb.thaw()).await;
    mariadb.stop();
    is_gone(mariadb.address()).await;
    mariadb.start_again().await;
    assert_eq!(read(&url).await, 7);
    let another = mariadb.url_of("things").await;
    assert!(database(&another).await.execute("SELECT id FROM kept").await.is_err(), "it is empty");
    let address = mariadb.address();
    drop(mariadb);
    is_gone(address).await;
}

#[tokio::test]
async fn rabbitmq_keeps_what_it_confirmed() {
    let Some(mut rabbitmq) = RabbitMq::start().await else { return };
    rabbitmq.declare("kept").await;
    rabbitmq.publish("", "kept", b"a message").await;
    assert_eq!(rabbitmq.waiting("kept").await, Some(1));
    rabbitmq.stop();
    is_gone(rabbitmq.address()).await;
    rabbitmq.start_again().await;
    assert_eq!(rabbitmq.take("kept").await.as_deref(), Some(&b"a message"[..]));
    assert_eq!(rabbitmq.waiting("kept").await, Some(0));
    assert_eq!(rabbitmq.waiting("another").await, None);
    let address = rabbitmq.address();
    drop(rabbitmq);
    is_gone(address).await;
}
