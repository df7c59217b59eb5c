//! A real driver at the other end of an in-memory stream.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use super::double::Bench;
use crate::wire::backend;

/// Says hello to whoever is there, then hands message after message to the console.
async fn serve(mut stream: DuplexStream) -> std::io::Result<()> {
    let mut bench = Bench::admin();
    let startup_len = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; startup_len as usize - 4]).await?;
    let mut out = Vec::new();
    backend::authentication_ok(&mut out);
    for (name, value) in bench.console.greeting() {
        backend::parameter_status(&mut out, name, &value);
    }
    backend::ready_for_query(&mut out, b'I');
    loop {
        stream.write_all(&std::mem::take(&mut out)).await?;
        let tag = stream.read_u8().await?;
        let mut body = vec![0; stream.read_u32().await? as usize - 4];
        stream.read_exact(&mut body).await?;
        match bench.console.message(tag, &body, &mut out) {
            Ok(None) => {}
            Ok(Some(wait)) => out.extend(wait.await),
            Err(_) => return Ok(()),
        }
    }
}

/// A binary `numeric` of at most four digits.
struct Small(u16);

impl<'a> FromSql<'a> for Small {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Small, Box<dyn std::error::Error + Sync + Send>> {
        let digit = raw.get(8..10).map_or(0, |digit| u16::from_be_bytes([digit[0], digit[1]]));
        Ok(Small(digit))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }
}

#[tokio::test]
async fn tokio_postgres_prepares_and_reads_binary_rows() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let server = tokio::spawn(serve(ours));
    let (client, connection) = Config::new().user("admin").connect_raw(theirs, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);

    let pools = client.query("SHOW POOLS", &[]).await.unwrap();
    assert_eq!(pools[0].get::<_, &str>("database"), "app");
    assert_eq!(pools[0].get::<_, i32>("maxwait_us"), 13);
    assert_eq!(pools[1].get::<_, Option<&str>>("load_balance_hosts"), None);

    let stats = client.prepare("SHOW STATS").await.unwrap();
    assert!(stats.params().is_empty());
    for _ in 0..2 {
        let rows = client.query(&stats, &[]).await.unwrap();
        assert_eq!(rows[0].get::<_, Small>("total_query_count").0, 3);
    }

    let simple = client.simple_query("SHOW VERSION").await.unwrap();
    let found = simple
        .iter()
        .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("PgBouncer 1.25.2")));
    assert!(found);

    assert!(client.query("SHOW nothing", &[]).await.is_err());
    assert_eq!(client.execute("RECONNECT app", &[]).await.unwrap(), 0);
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();

    drop((stats, client));
    connection.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
}
