//! Checking and exporting blocks of a cluster that speaks TLS alone.

use super::fixture::{checker, until};
use clap::Parser;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Code;
use tonic::transport::Endpoint;
use troika_node::cli::{Cli, Command, TlsArgs, VerifyArgs};
use troika_node::dev::genesis::genesis;
use troika_node::executor::{Executor, ExecutorConfig};
use troika_node::store_client::StoreClient;
use troika_node::tls::{Tls, store_options};
use troika_node::verify::{self, peers};
use troika_proto::wire::hash_bytes;
use troika_proto::{Genesis, v1};
use troika_store::raft::MemberConfig;
use troika_store::server::{self, Server, tls};
use v1::pool_client::PoolClient;

/// Blocks that are checked.
const BLOCKS: u64 = 2;

/// A set of certificates as `troikactl certs` makes it.
async fn certificates(folder: &Path) -> PathBuf {
    let certs = folder.join("certs");
    let line = format!("troikactl certs {} --members 1", certs.display());
    let made = tokio::task::spawn_blocking(move || {
        let cli = troika_store::ctl::Cli::try_parse_from(line.split(' ')).expect("parsed");
        troika_store::ctl::main(cli);
    });
    made.await.expect("made");
    certs
}

/// The one member of a store that lets nobody in without a certificate.
async fn member(folder: &Path, certs: &Path) -> Server {
    let bind = || server::bind("127.0.0.1:0");
    let (clients, peers) = (bind().await.unwrap(), bind().await.unwrap());
    let address = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap().to_string();
    let mut config = MemberConfig::new(1, address(&peers), address(&clients));
    config.members = BTreeMap::from([(1, address(&peers))]);
    let file = |name: &str| certs.join(name);
    let (cert, key) = (file("member-1.pem"), file("member-1.key"));
    let tls = tls::Tls::load(&cert, &key, &file("ca.pem"), None).unwrap();
    let data = folder.join("member-1");
    server::start(config, &data, clients, peers, tls)
        .await
        .expect("the member starts")
}

fn as_role(certs: &Path, role: &str) -> Tls {
    let args = TlsArgs {
        cacert: Some(certs.join("ca.pem")),
        cert: Some(certs.join(format!("{role}.pem"))),
        key: Some(certs.join(format!("{role}.key"))),
    };
    Tls::read(&args).expect("read").expect("given")
}

fn flags(certs: &Path, role: &str) -> String {
    let certs = certs.display();
    format!("--cacert {certs}/ca.pem --cert {certs}/{role}.pem --key {certs}/{role}.key")
}

fn parse(line: &str) -> Command {
    let line = format!("troika-node {line}");
    Cli::try_parse_from(line.split(' '))
        .expect("parsed")
        .command
}

fn verify_args(line: &str) -> VerifyArgs {
    match parse(&format!("verify {line}")) {
        Command::Verify(args) => args,
        other => panic!("{other:?}"),
    }
}

/// Whether an executor takes a gateway with this certificate.
async fn may_hand_in(tls: &Tls, executor: SocketAddr, genesis: &Genesis) -> bool {
    let endpoint = Endpoint::from_shared(format!("https://{executor}")).unwrap();
    let channel = endpoint
        .tls_config(tls.client())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let hello = v1::PendingHello {
        gateway: "gateway-1".into(),
        genesis_hash: hash_bytes(genesis.header().hash()),
    };
    let hello = v1::PendingUpdate {
        update: Some(v1::pending_update::Update::Hello(hello)),
    };
    let sent = tokio_stream::iter([hello]);
    match PoolClient::new(channel).pending(sent).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::PermissionDenied, "{status}");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_a_cluster_behind_tls_are_exported_verified_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let certs = certificates(folder.path()).await;
    let member = member(folder.path(), &certs).await;
    let members = [member.client_addr.to_string()];
    let options = |role: &str| store_options(&members, Some(&as_role(&certs, role))).unwrap();
    let store = StoreClient::new(options("admin")).unwrap();
    let genesis = genesis(2, Duration::from_millis(100));
    until("the chain is started", async || {
        store.init_chain(&genesis).await.ok()
    })
    .await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut config = ExecutorConfig::new("executor-1", options("executor"), (0, 1), listen);
    config.tls = Some(as_role(&certs, "executor").server());
    let executor = Executor::start(config).await.expect("starts");
    let head = async || store.head().await.expect("answers").header.number;
    until("blocks", async || (head().await >= BLOCKS).then_some(())).await;

    // From the store into a file, and from the file into the same store, where all of it is known.
    let file = folder.path().join("blocks");
    let file = file.display();
    let (url, feed) = (format!("https://{}", members[0]), executor.addr());
    let reader = flags(&certs, "reader");
    let line = format!("export --store {url} --last {BLOCKS} {reader} {file}");
    let Command::Export(export) = parse(&line) else {
        panic!("not parsed");
    };
    verify::export::run(&export).await.expect("exported");
    let own = flags(&certs, "executor");
    let args = verify_args(&format!("{file} --store {} {own}", members[0]));
    assert!(verify::run(args).await.expect("known"));

    // From the feed, with a scheme and without.
    for from in [format!("https://{feed}"), feed.to_string()] {
        let args = verify_args(&format!("--from {from} --blocks {BLOCKS} --json {reader}"));
        assert!(verify::run(args).await.expect("checked"), "{from}");
    }
    let plain = verify_args(&format!("--from https://{feed}"));
    let refused = format!("{:#}", verify::run(plain).await.unwrap_err());
    assert!(refused.contains("--cacert"), "{refused}");

    // A certificate that may read the feed may not say who has sent what.
    for (role, allowed) in [("reader", false), ("executor", true)] {
        assert_eq!(
            may_hand_in(&as_role(&certs, role), feed, &genesis).await,
            allowed,
            "{role}"
        );
    }

    // As an executor of another cluster follows it.
    let other = checker(&genesis, 1).await;
    let peers = peers::at(&[feed.to_string()], Some(&as_role(&certs, "reader"))).unwrap();
    let followed = until("blocks are followed", async || {
        let head = other.store().head().await.expect("answers");
        (head.header.number >= BLOCKS).then_some(())
    });
    tokio::select! {
        () = followed => {}
        () = verify::follow_peers(&peers, other.store(), &other.executors()[0]) => panic!("ended"),
    }
    other.stop().await;
    executor.shutdown().await;
    member.shutdown().await;
}
