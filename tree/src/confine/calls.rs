//! Which system calls a confined process may not make any more (seccomp): those that it never needs, above all where they lead around
//! what Landlock sees.
//!
//! A list of what is refused and not of what is allowed, so that a libc that begins to use other calls goes on working.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter,
};

use super::Network;

/// The rules of each call: it is refused if one of them matches, and always if there is none.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Kernel interfaces that no part of this program uses: programs and modules for the kernel, other processes' memory, mounts and
/// namespaces, keys, the clock and the name of the host. `io_uring` does what calls do that are refused.
const NEVER: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
];

/// How a process that makes no connection and starts no program could do so all the same, or reach others through the kernel.
const NOT_BY_A_LISTENER: &[libc::c_long] = &[
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fanotify_init,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_open_by_handle_at,
    libc::SYS_semget,
    // Where to is behind a pointer.
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_shmget,
];

/// Flags of `clone` that make namespaces. That of time is none of `clone`, but of `clone3`.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// The kinds of sockets that are no streams.
const NO_STREAMS: [libc::c_int; 5] = [
    libc::SOCK_DGRAM,
    libc::SOCK_RAW,
    libc::SOCK_RDM,
    libc::SOCK_SEQPACKET,
    libc::SOCK_DCCP,
];
/// What of the kind of a socket is not a flag.
const KIND: u64 = 0xf;
/// Packets of a device, as an obsolete kind.
const SOCK_PACKET: u64 = 10;

/// By what the x32 ABI tells its calls from those of x86_64, which otherwise have the same numbers.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// Calls that have a number of their own in that ABI. Nothing uses it.
#[cfg(target_arch = "x86_64")]
const OF_X32: std::ops::RangeInclusive<i64> = 512..=547;

/// Has the kernel refuse calls to the calling thread, and to all that it starts from now on. `false` if it cannot.
pub(super) fn refuse(network: Network) -> Result<bool, Error> {
    // Its flags are behind a pointer. Without it libc falls back to `clone`.
    let unknown = [(libc::SYS_clone3, Vec::new())].into();
    let programs = [
        compile(rules(network)?, libc::EPERM)?,
        compile(unknown, libc::ENOSYS)?,
    ];
    for program in programs {
        match apply_filter(&program) {
            Ok(()) => {}
            Err(Error::Seccomp(error)) if is_missing(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Whether the kernel has no filters, or whoever has started this process does not let it have one.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)
    )
}

fn compile(rules: Rules, error: libc::c_int) -> Result<BpfProgram, Error> {
    let refused = SeccompAction::Errno(error.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture)?;
    Ok(filter.try_into()?)
}

fn rules(network: Network) -> Result<Rules, Error> {
    let mut rules: Rules = NEVER.iter().map(|call| (*call, Vec::new())).collect();
    let has = |flag: libc::c_int| one_of(0, flag.cast_unsigned().into());
    let namespaces: Result<_, Error> = NAMESPACES.into_iter().map(has).collect();
    rules.insert(libc::SYS_clone, namespaces?);
    match network {
        Network::Any => {}
        Network::Listen(_) | Network::Closed => {
            rules.extend(NOT_BY_A_LISTENER.iter().map(|call| (*call, Vec::new())));
            rules.insert(libc::SYS_socket, no_tcp()?);
            rules.insert(
                libc::SYS_socketpair,
                vec![all(&[is_not(0, libc::AF_UNIX)?])?],
            );
            rules.insert(libc::SYS_sendto, vec![to_an_address()?, fast_open()?]);
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        let same: Vec<_> = rules
            .iter()
            .map(|(call, rules)| (call | X32, rules.clone()))
            .collect();
        rules.extend(same);
        rules.extend(OF_X32.map(|call| (call | X32, Vec::new())));
    }
    Ok(rules)
}

/// Every socket but those of plain TCP: no UNIX sockets, no datagrams, no MPTCP, nothing of the kernel's own.
fn no_tcp() -> Result<Vec<SeccompRule>, Error> {
    let mut rules = vec![
        all(&[is_not(0, libc::AF_INET)?, is_not(0, libc::AF_INET6)?])?,
        all(&[is_not(2, 0)?, is_not(2, libc::IPPROTO_TCP)?])?,
        masked(1, KIND, SOCK_PACKET)?,
    ];
    for kind in NO_STREAMS {
        rules.push(masked(1, KIND, kind.cast_unsigned().into())?);
    }
    Ok(rules)
}

/// What is sent to another end than that of the connection.
fn to_an_address() -> Result<SeccompRule, Error> {
    let (wide, differs) = (SeccompCmpArgLen::Qword, SeccompCmpOp::Ne);
    all(&[SeccompCondition::new(4, wide, differs, 0)?])
}

/// A connection that is made by sending.
fn fast_open() -> Result<SeccompRule, Error> {
    one_of(3, libc::MSG_FASTOPEN.cast_unsigned().into())
}

/// Whether the argument has all bits of `flag`.
fn one_of(argument: u8, flag: u64) -> Result<SeccompRule, Error> {
    masked(argument, flag, flag)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, Error> {
    let equals = SeccompCmpOp::MaskedEq(mask);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, equals, value)?;
    all(&[condition])
}

fn is_not(argument: u8, value: libc::c_int) -> Result<SeccompCondition, Error> {
    let (narrow, differs) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Ne);
    let value = value.cast_unsigned().into();
    Ok(SeccompCondition::new(argument, narrow, differs, value)?)
}

fn all(conditions: &[SeccompCondition]) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.to_vec())?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::process::Command;

    use rustix::io::Errno;

    use super::*;
    use crate::raw::hollow;

    /// Runs `act` on a thread of its own, which is refused calls first.
    fn refused<T: Send>(network: Network, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                assert!(refuse(network).expect("refuse"), "no seccomp");
                act()
            });
            thread.join().expect("thread")
        })
    }

    fn is_refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn what_is_never_needed_is_refused_to_all() {
        for network in [Network::Any, Network::Closed, Network::Listen(1)] {
            refused(network, || {
                for call in NEVER {
                    assert_eq!(hollow(*call), Err(Errno::PERM), "call {call}");
                }
                assert_eq!(hollow(libc::SYS_clone), Err(Errno::PERM));
                assert_eq!(hollow(libc::SYS_clone3), Err(Errno::NOSYS));
                // What it starts, it starts as confined as it is.
                let below = std::thread::spawn(|| hollow(libc::SYS_bpf)).join();
                assert_eq!(below.expect("thread"), Err(Errno::PERM));
            });
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_other_abi_leads_around_nothing() {
        refused(Network::Closed, || {
            for call in NEVER.iter().chain(NOT_BY_A_LISTENER) {
                assert_eq!(hollow(call | X32), Err(Errno::PERM), "call {call}");
            }
            for call in OF_X32 {
                assert_eq!(hollow(call | X32), Err(Errno::PERM), "call {call}");
            }
            assert_eq!(hollow(libc::SYS_socket | X32), Err(Errno::PERM));
        });
    }

    #[test]
    fn who_makes_no_connection_makes_none_by_any_means() {
        let scratch = tempfile::tempdir().expect("scratch");
        let (stream, datagram) = (scratch.path().join("stream"), scratch.path().join("gram"));
        let _stream = UnixListener::bind(&stream).expect("listen");
        let _datagram = UnixDatagram::bind(&datagram).expect("bind");
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let tcp = tcp.local_addr().expect("address");
        let known = UnixDatagram::unbound().expect("socket");
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        for network in [Network::Closed, Network::Listen(1)] {
            refused(network, || {
                assert!(is_refused(UnixStream::connect(&stream)));
                assert!(is_refused(UnixDatagram::unbound()));
                assert!(is_refused(TcpStream::connect(tcp)));
                assert!(is_refused(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))));
                // Through sockets that it has already.
                assert!(is_refused(known.connect(&datagram)));
                assert!(is_refused(known.send_to(b"x", &datagram)));
                assert!(is_refused(udp.send_to(b"x", tcp)));
                for call in NOT_BY_A_LISTENER {
                    assert_eq!(hollow(*call), Err(Errno::PERM), "call {call}");
                }
            });
        }
    }

    #[test]
    fn sockets_of_other_families_kinds_and_protocols_are_refused() {
        use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK};
        use libc::{SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM};

        use crate::raw::socket;

        refused(Network::Closed, || {
            for (family, kind, protocol) in [
                (AF_UNIX, SOCK_STREAM, 0),
                (AF_UNIX, SOCK_DGRAM, 0),
                (AF_NETLINK, SOCK_RAW, 0),
                (AF_PACKET, SOCK_RAW, 0),
                (AF_VSOCK, SOCK_STREAM, 0),
                (AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0),
                (AF_INET6, SOCK_DGRAM, libc::IPPROTO_UDP),
                (AF_INET, SOCK_RAW, libc::IPPROTO_ICMP),
                (AF_INET, SOCK_SEQPACKET, libc::IPPROTO_SCTP),
                (AF_INET, SOCK_STREAM, libc::IPPROTO_SCTP),
                (AF_INET, SOCK_STREAM, libc::IPPROTO_MPTCP),
                (AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, libc::IPPROTO_MPTCP),
            ] {
                let what = (family, kind, protocol);
                assert_eq!(socket(family, kind, protocol), Err(Errno::PERM), "{what:?}");
            }
            for protocol in [0, libc::IPPROTO_TCP] {
                socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol).expect("plain TCP");
            }
        });
    }

    #[test]
    fn who_listens_can_do_its_work() {
        let served = |listener: TcpListener| {
            let address = listener.local_addr().expect("address");
            let client = std::thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("connect");
                stream.write_all(b"asked").expect("write");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("read");
                answer
            });
            (listener, client)
        };
        // The client is not confined; where the listener comes from is.
        let (listener, client) = served(TcpListener::bind("127.0.0.1:0").expect("listen"));
        refused(Network::Listen(0), move || {
            TcpListener::bind("127.0.0.1:0").expect("listen");
            let (mut stream, _) = listener.accept().expect("accept");
            let mut asked = [0; 5];
            stream.read_exact(&mut asked).expect("read");
            stream.write_all(&asked).expect("write");
            drop(stream);
            let (mut one, mut other) = UnixStream::pair().expect("pair");
            one.write_all(b"x").expect("write");
            other.read_exact(&mut [0]).expect("read");
            std::thread::spawn(|| ()).join().expect("a thread");
        });
        assert_eq!(client.join().expect("client"), "asked");
    }

    #[test]
    fn who_calls_others_may_still() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("socket");
        let _listener = UnixListener::bind(&path).expect("listen");
        refused(Network::Any, || {
            TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            UnixStream::connect(&path).expect("connect");
            UdpSocket::bind("127.0.0.1:0").expect("bind");
            assert!(Command::new("/bin/true").status().expect("run").success());
        });
    }

    #[test]
    fn where_filters_are_not_to_be_had_that_is_told() {
        let outer = [(libc::SYS_seccomp, Vec::new())].into();
        for error in [libc::ENOSYS, libc::EPERM, libc::EINVAL] {
            let outer = compile(Rules::clone(&outer), error).expect("compile");
            let thread = std::thread::spawn(move || {
                apply_filter(&outer).expect("apply");
                refuse(Network::Any).expect("no failure")
            });
            assert!(!thread.join().expect("thread"));
        }
    }
}
