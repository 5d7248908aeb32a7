//! One login of tokio-postgres with TLS: AUTHORITY CONNINFO [CERTIFICATE KEY]. Prints who it is there, or the refusal.

use std::error::Error;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use postgres_openssl::{MakeTlsConnector, set_postgresql_alpn};

async fn log_in(arguments: &[String]) -> Result<String, Box<dyn Error>> {
    let mut builder = SslConnector::builder(SslMethod::tls())?;
    builder.set_ca_file(&arguments[0])?;
    if let [_, _, certificate, key] = arguments {
        builder.set_certificate_file(certificate, SslFiletype::PEM)?;
        builder.set_private_key_file(key, SslFiletype::PEM)?;
    }
    set_postgresql_alpn(&mut builder)?;
    let (client, connection) =
        tokio_postgres::connect(&arguments[1], MakeTlsConnector::new(builder.build())).await?;
    tokio::spawn(connection);
    Ok(client.query_one("select current_user::text", &[]).await?.get(0))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match log_in(&arguments).await {
        Ok(name) => println!("in as {name}"),
        Err(refused) => println!("refused: {refused:?}"),
    }
}
