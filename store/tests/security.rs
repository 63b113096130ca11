//! TLS on real processes, with the certificates that `troikactl certs` makes: who may come in, and who may do what.

mod support;

use std::path::Path;
use std::process::Command;

use support::group::{Group, Ran, ports, run, wait};

const DENIED: i32 = 5;

fn certificates(folder: &Path, members: u64) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
    command.arg("certs").arg(folder);
    run(command.args(["--members", &members.to_string()]))
}

fn secured(members: u64) -> Group {
    let mut group = Group::new(members);
    let folder = group.folder().join("certs");
    certificates(&folder, members).ended(0);
    group.certificates = Some(folder);
    group
}

#[test]
fn each_role_may_do_its_part_and_nothing_else() {
    let mut group = secured(3);
    group.start_all();
    group.ready();
    let genesis = group.genesis();
    let genesis = genesis.to_str().unwrap();
    let contract = "0x00000000000000000000000000000000000000cc";

    // Starting the chain is the admin's.
    for role in ["reader", "executor"] {
        let denied = group.ctl_as(role, &["init", genesis]).ended(DENIED);
        assert!(
            denied.err.contains("InitChain takes the role admin"),
            "{denied:?}"
        );
        assert!(
            denied.err.contains(&format!("gives the roles: {role}")),
            "{denied:?}"
        );
    }
    group.ctl(&["init", genesis]).ended(0);

    // Rounds are the executor's, and the admin may help out.
    group.ctl_as("reader", &["round", "open"]).ended(DENIED);
    group.ctl_as("executor", &["round", "open"]).ended(0);
    let write = format!("{contract}/0=1");
    let submit = |role: &str, shard: &str| {
        let place = ["submit", "--round", "1", "--shard", shard];
        let what = ["--executor", "a", "--write", &write];
        group.ctl_as(role, &[&place[..], &what].concat())
    };
    submit("reader", "0").ended(DENIED);
    submit("executor", "0").ended(0);
    // No conflict, a slot of its own: but the same one, so the store says no, which is not "denied".
    submit("admin", "1").ended(1);
    let acquire = ["lock", "acquire", "--round", "1", "--shard", "2", contract];
    group.ctl_as("reader", &acquire).ended(DENIED);
    group.ctl_as("executor", &acquire).ended(0);
    group
        .ctl_as("reader", &["round", "seal", "1"])
        .ended(DENIED);
    group
        .ctl_as("reader", &["round", "void", "1"])
        .ended(DENIED);

    // Everybody with a role reads.
    for role in ["reader", "executor", "admin"] {
        for read in [
            &["head"][..],
            &["status"],
            &["health"],
            &["member", "list"],
            &["round", "get", "1"],
            &["round", "list"],
            &["lock", "list", "1"],
            &["state", "get", contract],
            &["watch", "--after", "0", "--count", "1"],
        ] {
            group.ctl_as(role, read).ended(0);
        }
    }

    // Operating is the admin's.
    let backup = group.folder().join("backup");
    let backup = backup.to_str().unwrap();
    for operation in [
        &[
            "member",
            "add",
            "4",
            "--peer",
            "127.0.0.1:1",
            "--client",
            "127.0.0.1:2",
        ][..],
        &["member", "promote", "3"],
        &["member", "remove", "3"],
        &["leader", "transfer"],
        &["prune", "--below", "1"],
        &["backup", backup],
    ] {
        for role in ["reader", "executor"] {
            group.ctl_as(role, operation).ended(DENIED);
        }
    }
    group.ctl(&["backup", backup]).ended(0);
    group.ctl(&["leader", "transfer"]).ended(0);

    // A member's certificate is for members.
    group.ctl_as("member-1", &["head"]).ended(DENIED);
    // What was denied is in the log, with who and what.
    let logged: String = group.members.iter().map(|member| member.logged()).collect();
    let line = logged
        .lines()
        .find(|line| line.contains("call denied") && line.contains("Rounds/Submit"))
        .unwrap_or_else(|| panic!("not logged: {logged}"));
    assert!(line.contains("reader"), "{line}");
}

#[test]
fn who_has_no_certificate_of_the_authority_does_not_come_in() {
    let mut group = secured(1);
    group.start_all();
    group.ready();
    // Of another authority, with the best of roles.
    let other = group.folder().join("other");
    certificates(&other, 1).ended(0);
    let admin = |ca: &Path, cert: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
        command
            .args(["--timeout", "2s", "--endpoints", &group.url(0), "head"])
            .arg("--cacert")
            .arg(ca.join("ca.pem"));
        if let Some(cert) = cert {
            command.arg("--cert").arg(cert.join("admin.pem"));
            command.arg("--key").arg(cert.join("admin.key"));
        }
        run(&mut command)
    };
    let own = group.certificates.clone().unwrap();
    admin(&own, Some(&own)).ended(1); // No chain yet: it was let in.
    for stranger in [
        admin(&own, Some(&other)),
        admin(&own, None),
        admin(&other, Some(&own)),
    ] {
        assert_eq!(stranger.code, 3, "{stranger:?}");
    }
    // Plain text to a member that speaks TLS.
    let plain = format!("http://127.0.0.1:{}", group.members[0].client_port);
    let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
    let plain = run(command.args(["--timeout", "2s", "--endpoints", &plain, "head"]));
    assert_eq!(plain.code, 3, "{plain:?}");
}

#[test]
fn clients_without_a_certificate_get_the_role_that_was_given_to_them() {
    let mut group = secured(1);
    group.members[0].extra = ["--anonymous", "reader"].map(str::to_owned).to_vec();
    group.start_all();
    group.ready();
    let genesis = group.genesis();
    group.ctl(&["init", genesis.to_str().unwrap()]).ended(0);
    group.ctl_as("", &["head"]).ended(0);
    let denied = group.ctl_as("", &["round", "open"]).ended(DENIED);
    assert!(denied.err.contains("role executor"), "{denied:?}");
    group.ctl_as("executor", &["round", "open"]).ended(0);
}

#[test]
fn nobody_is_a_member_with_the_certificate_of_another() {
    let mut group = secured(3);
    let folder = group.certificates.clone().unwrap();
    // Member 3 is given the certificate of member 2, and says so at once.
    let good = std::fs::read(folder.join("member-3.pem")).unwrap();
    let good_key = std::fs::read(folder.join("member-3.key")).unwrap();
    std::fs::copy(folder.join("member-2.pem"), folder.join("member-3.pem")).unwrap();
    std::fs::copy(folder.join("member-2.key"), folder.join("member-3.key")).unwrap();
    group.start_member(2);
    assert_eq!(group.members[2].ended(), 1);
    let said = group.members[2].logged();
    assert!(said.contains("CN=member-3, OU=member"), "{said}");
    std::fs::write(folder.join("member-3.pem"), good).unwrap();
    std::fs::write(folder.join("member-3.key"), good_key).unwrap();

    // A client's certificate does not open the members' door.
    group.start_all();
    group.ready();
    let mut command = Command::new(env!("CARGO_BIN_EXE_troikactl"));
    let door = format!("https://127.0.0.1:{}", group.members[0].peer_port);
    command.args(["--timeout", "2s", "--endpoints", &door, "head"]);
    for (flag, file) in [
        ("--cacert", "ca.pem"),
        ("--cert", "admin.pem"),
        ("--key", "admin.key"),
    ] {
        command.arg(flag).arg(folder.join(file));
    }
    let refused = run(&mut command).ended(DENIED);
    assert!(refused.err.contains("is no member's"), "{refused:?}");
    wait("the refusal in the log", || {
        group.members[0]
            .logged()
            .contains("call denied")
            .then_some(())
    });
}

#[test]
fn plain_text_off_loopback_is_refused_unless_it_was_asked_for() {
    let mut group = Group::new(1);
    let everywhere = format!("0.0.0.0:{}", group.members[0].client_port);
    group.members[0].listen = Some(everywhere);
    group.start_all();
    assert_eq!(group.members[0].ended(), 1);
    let said = group.members[0].logged();
    assert!(
        said.contains("--insecure") && said.contains("--cacert"),
        "{said}"
    );
    group.members[0].extra = vec!["--insecure".to_owned()];
    group.start_all();
    group.ready();
}

#[test]
fn numbers_off_loopback_are_refused_unless_they_were_asked_for() {
    let mut group = Group::new(1);
    let everywhere = format!("0.0.0.0:{}", ports(1)[0]);
    group.members[0].extra = vec!["--metrics".to_owned(), everywhere];
    group.start_all();
    assert_eq!(group.members[0].ended(), 1);
    let said = group.members[0].logged();
    assert!(
        said.contains("--metrics") && said.contains("--insecure"),
        "{said}"
    );
    group.members[0].extra.push("--insecure".to_owned());
    group.start_all();
    group.ready();
}
