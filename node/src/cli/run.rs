//! `diemcau run`: settings from all their places, then the node.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use node::config::{self, Config};
use node::secret::Secret;
use toml::Value;
use tracing_subscriber::EnvFilter;

use super::args::Data;
use super::key;

/// Run this point until it is stopped
///
/// Finds the other points, joins sessions by itself, keeps what it sends and, as central, what all send. A flag
/// wins over the environment, which wins over the file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Settings file [default: config.toml in the data folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name this point must have in the roster
    #[arg(long)]
    name: Option<String>,
    /// Address of this machine to listen on
    #[arg(long, value_name = "IP")]
    listen: Option<IpAddr>,
    /// Port of the mesh, TCP and UDP; 0 for any
    #[arg(long)]
    port: Option<u16>,
    /// Port for sound and picture, UDP; 0 for any
    #[arg(long, value_name = "PORT")]
    media_port: Option<u16>,
    /// Port of the room's page; 0 for any
    #[arg(long, value_name = "PORT")]
    console_port: Option<u16>,
    /// Point to call; may be repeated
    #[arg(long = "peer", value_name = "HOST:PORT")]
    peers: Vec<String>,
    /// Find points by multicast
    #[arg(long, value_name = "true|false")]
    mdns: Option<bool>,
    /// Where picture and sound come from: browser, pattern, or file:PATH
    #[arg(long)]
    source: Option<String>,
    /// Decode what the others send
    #[arg(long, value_name = "true|false")]
    watch: Option<bool>,
    #[command(flatten)]
    data: Data,
}

impl Args {
    fn flags(&self) -> Vec<(&'static str, Value)> {
        let text = |key, text: Option<String>| text.map(|text| (key, Value::String(text)));
        let port = |key, port: Option<u16>| port.map(|port| (key, Value::Integer(i64::from(port))));
        let flag = |key, flag: Option<bool>| flag.map(|flag| (key, Value::Boolean(flag)));
        let peers = self.peers.iter().cloned().map(Value::String).collect::<Vec<_>>();
        let given = [
            text("name", self.name.clone()),
            text("mesh.listen", self.listen.map(|ip| ip.to_string())),
            port("mesh.port", self.port),
            port("media.port", self.media_port),
            port("console.port", self.console_port),
            (!peers.is_empty()).then_some(("mesh.peers", Value::Array(peers))),
            flag("mesh.mdns", self.mdns),
            text("room.source", self.source.clone()),
            flag("room.watch", self.watch),
        ];
        given.into_iter().flatten().collect()
    }
}

pub(crate) fn main(args: Args) -> Result<()> {
    // libp2p's TLS writes the mesh's session keys to the file this names.
    ensure!(
        std::env::var_os("SSLKEYLOGFILE").is_none(),
        "SSLKEYLOGFILE is set, which would write the keys of the mesh to a file: unset it"
    );
    let mut config = config::load(args.config.as_deref(), args.data.data.as_deref(), args.flags())?;
    config.data = std::path::absolute(config.data)?;
    logs();
    let passphrase = key::passphrase_if_locked(&config.data)?;
    run(config, passphrase)
}

/// What is worth a line when nobody asked: our own news, and trouble of the libraries. Kademlia warns each time it looks
/// around before anybody is there.
const LOGGED: &str = "warn,diemcau=info,node=info,libp2p_kad=error";

/// Logs go to stderr, as DIEMCAU_LOG says: `info`, `debug`, or `warn,node::mesh=debug`.
fn logs() {
    let filter = EnvFilter::try_from_env("DIEMCAU_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn run(config: Config, passphrase: Option<Secret>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(node::driver::run(config, passphrase))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use node::config::{Given, Port};

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let line = "run --data D --name A --listen ::1 --port 1 --media-port 2 --console-port 3 --peer a:1 --peer b:2 \
                    --mdns false --source file:x.mp4 --watch false";
        let args = Only::try_parse_from(line.split_whitespace()).unwrap().args;
        let home = Some("/home/lan".into());
        let config = config::resolve(&Given { flags: args.flags(), home, ..Given::default() }).unwrap();
        let fixed = |number| Port { number, fixed: true };
        assert_eq!((config.mesh.port, config.media.port, config.console.port), (fixed(1), fixed(2), fixed(3)));
        assert_eq!(config.mesh.listen.to_string(), "::1");
        assert_eq!(config.mesh.peers.len(), 2);
        assert_eq!(config.name.as_deref(), Some("A"));
        assert_eq!(config.room.source.to_string(), "file:x.mp4");
        assert!(!config.mesh.mdns && !config.room.watch);
    }
}
