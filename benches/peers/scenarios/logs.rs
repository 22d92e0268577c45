//! Logs that grow, a few of which are rotated.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::options::Options;
use crate::random::Random;

const LOGS: u64 = 300;
const SMALLEST: u64 = 10_000;
/// The largest log, with `--bytes` at its usual 1,000,000,000.
const LARGEST: u64 = 20_000_000;
const MOST_GROWTH: u64 = 200_000;
/// One log in so many is rotated.
const LOGS_PER_ROTATED: u64 = 50;

const PATHS: [&str; 12] = [
    "/",
    "/api/v2/orders",
    "/api/v2/customers",
    "/login",
    "/static/app.js",
    "/static/style.css",
    "/images/logo.png",
    "/search?q=garden+chairs",
    "/checkout",
    "/health",
    "/feed.xml",
    "/robots.txt",
];
const AGENTS: [&str; 5] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148",
    "curl/8.8.0",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
];
const UNITS: [&str; 6] = [
    "sshd",
    "systemd",
    "postfix/smtpd",
    "cron",
    "kernel",
    "dovecot",
];
const EVENTS: [&str; 8] = [
    "Accepted publickey for deploy",
    "Failed password for invalid user admin",
    "pam_unix(cron:session): session opened for user root(uid=0)",
    "Started Daily apt download activities.",
    "connect from unknown",
    "disconnect from unknown ehlo=1 quit=1 commands=2",
    "TCP: request_sock_TCP: Possible SYN flooding on port 443. Sending cookies.",
    "imap-login: Login: method=PLAIN, TLS",
];

pub(super) fn make(root: &Path, options: &Options) {
    let mut random = Random::new(options.seed);
    for number in 0..LOGS {
        let path = path(root, number);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let lines = lines(number, size(&mut random, options), 0, &mut random);
        std::fs::write(path, lines).unwrap();
    }
}

pub(super) fn change(root: &Path, options: &Options) {
    let mut random = Random::new(options.seed + 1);
    for number in 0..LOGS {
        let path = path(root, number);
        let lines = lines(number, random.below(MOST_GROWTH), 1_000_000, &mut random);
        if number % LOGS_PER_ROTATED == LOGS_PER_ROTATED / 2 {
            std::fs::rename(&path, path.with_extension("log.1")).unwrap();
        }
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}

fn path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("service-{:02}/{number:03}.log", number / 10))
}

/// As many logs of each size as of any other, by the logarithm.
fn size(random: &mut Random, options: &Options) -> u64 {
    let largest = LARGEST as f64 * options.bytes as f64 / 1e9;
    let exponent = random.below(1_000_000) as f64 / 1e6;
    let factor = (largest / SMALLEST as f64).max(1.0).powf(exponent);
    (SMALLEST as f64 * factor) as u64
}

/// At least `bytes` of whole lines, of the kind that this log has; the clock starts at `second`.
fn lines(number: u64, bytes: u64, mut second: u64, random: &mut Random) -> String {
    let mut text = String::with_capacity(bytes as usize + 400);
    while (text.len() as u64) < bytes {
        second += random.below(4);
        match number % 3 {
            0 => web_line(&mut text, second, random),
            1 => system_line(&mut text, second, random),
            _ => json_line(&mut text, second, random),
        }
    }
    text
}

fn web_line(text: &mut String, second: u64, random: &mut Random) {
    let (day, hour, minute) = (second / 86_400 + 1, second / 3600 % 24, second / 60 % 60);
    let (address, path, agent) = (address(random), random.pick(&PATHS), random.pick(&AGENTS));
    let status = random.pick(&[200, 200, 200, 200, 304, 404, 302, 500]);
    let (id, bytes) = (random.below(100_000), random.below(60_000));
    writeln!(
        text,
        "{address} - - [{day:02}/Nov/2026:{hour:02}:{minute:02}:{:02} +0000] \"GET {path}?id={id} HTTP/1.1\" {status} {bytes} \"-\" \"{agent}\"",
        second % 60,
    )
    .unwrap();
}

fn system_line(text: &mut String, second: u64, random: &mut Random) {
    let (day, hour, minute) = (second / 86_400 + 1, second / 3600 % 24, second / 60 % 60);
    let (unit, event) = (random.pick(&UNITS), random.pick(&EVENTS));
    let (process, port) = (random.below(32_768), 1024 + random.below(64_000));
    writeln!(
        text,
        "Nov {day:2} {hour:02}:{minute:02}:{:02} web{} {unit}[{process}]: {event} from {} port {port}",
        second % 60,
        random.below(4),
        address(random),
    )
    .unwrap();
}

fn json_line(text: &mut String, second: u64, random: &mut Random) {
    let (path, level) = (
        random.pick(&PATHS),
        random.pick(&["info", "info", "info", "debug", "warn"]),
    );
    writeln!(
        text,
        "{{\"time\":{}.{:06},\"level\":\"{level}\",\"request\":\"{:016x}\",\"path\":\"{path}\",\"customer\":{},\"milliseconds\":{},\"message\":\"request served\"}}",
        1_795_000_000 + second,
        random.below(1_000_000),
        random.next(),
        random.below(50_000),
        random.below(900),
    )
    .unwrap();
}

/// One of a few thousand clients, some of which come often.
fn address(random: &mut Random) -> String {
    let most = *random.pick(&[50, 500, 5000]);
    let client = random.below(most) * 7919 % 65_536;
    format!("203.{}.{}.{}", client % 7, client / 256, client % 256)
}
