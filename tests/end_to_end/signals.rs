//! Signals in the midst of a training: the first saves and ends it, a kill costs the steps since the last
//! checkpoint, and the run that goes on ends bit for bit where it would have ended.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::toy::{Place, number};

/// A run long enough to be met in its midst.
const RUN: &str = "train -c train.tsv -t held-out.tsv -v vocab.json -H 16 -l 1 -a 2 -s 16 -b 8 --steps 240 \
                   --log-freq 1 --save-every 7";

/// One that is never met at its end.
const ENDLESS: &str =
    "train -c train.tsv -v vocab.json -H 8 -l 1 -a 2 -s 16 -b 8 --steps 1000000 --log-freq 1";

/// Starts `flags`, sends `signal` so many `times` as soon as step `after` is told, and waits for the end.
fn meet(place: &Place, flags: &str, after: u64, signal: Signal, times: usize) -> (ExitStatus, String) {
    let mut child = place.command(flags).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.lines().any(|line| line.split_whitespace().take(2).eq(["step", &after.to_string()])) {
        assert_ne!(told.read_line(&mut text).unwrap(), 0, "it ended before step {after}: {text}");
    }
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    for _ in 0..times {
        kill_process(pid, signal).unwrap();
    }
    told.read_to_string(&mut text).unwrap();
    (child.wait().unwrap(), text)
}

#[test]
fn a_signal_saves_and_a_kill_costs_only_steps() {
    let place = Place::with_lines(300);
    place.good(&format!("{RUN} -o whole"));
    for (signal, after, code, with) in [
        (Signal::TERM, 20, Some(75), "--workers 3"),
        (Signal::INT, 50, Some(130), "--workers 0 --io memory"),
        (Signal::USR1, 9, Some(75), "--workers 1 --io pread"),
        (Signal::HUP, 70, Some(75), "--workers 2"),
        (Signal::KILL, 33, None, "--workers 8 --threads 1"),
    ] {
        let run = format!("run-{after}");
        let (status, told) = meet(&place, &format!("{RUN} -o {run}"), after, signal, 1);
        match code {
            Some(code) => {
                assert_eq!(status.code(), Some(code), "{told}");
                assert!(told.contains(&format!("--resume {run}")), "the remedy is told: {told}");
                assert!(!told.contains("error"), "to stop where one was asked to is none: {told}");
                let step = number(&place.json(&format!("{run}/state.json")), "step");
                assert!((after as f64..240.0).contains(&step), "stopped after {step}");
            }
            None => assert_eq!(status.signal(), Some(Signal::KILL.as_raw())),
        }
        let resumed = place.good(&format!("train --resume {run} {with}"));
        assert!(resumed.stderr.contains("goes on after step"), "{}", resumed.stderr);
        for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
            let same = place.read(&format!("{run}/{file}")) == place.read(&format!("whole/{file}"));
            assert!(same, "{file} differs after {signal:?}");
        }
        // The records, too, are those of one run: no step twice, none missing.
        let steps = |run: &str| -> Vec<(u64, String)> {
            let records = place.records(&format!("{run}/metrics.jsonl"));
            let steps = records.iter().filter(|r| r["kind"] == "step");
            steps.map(|r| (number(r, "step") as u64, r["digest"].to_string())).collect()
        };
        assert_eq!(steps(&run), steps("whole"));
    }
}

/// Without a schedule that knows the end, a run in parts is the run in one piece.
#[test]
fn more_steps_later_are_the_steps_of_one_run() {
    let place = Place::with_lines(100);
    let train = "train -c train.tsv -v vocab.json -H 16 -l 1 -a 2 -s 16 -b 8 --schedule constant --warmup 4";
    place.good(&format!("{train} -o whole --steps 30"));
    place.good(&format!("{train} -o parts --steps 11 --workers 2"));
    place.good("train --resume parts --steps 20 --workers 0");
    place.good("train --resume parts --steps 30 --io memory");
    let state = place.read("parts/state.json");
    for flags in ["", "--steps 30", "--steps 4"] {
        let again = place.good(&format!("train --resume parts {flags}"));
        assert!(again.stdout.contains("already finished at step 30"), "{flags}: {}", again.stdout);
        assert_eq!(again.stderr, "", "{flags}");
    }
    assert_eq!(number(&place.good("train --resume parts --json").json(), "step"), 30.0);
    assert!(place.read("parts/state.json") == state, "nothing was done");
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let same = place.read(&format!("parts/{file}")) == place.read(&format!("whole/{file}"));
        assert!(same, "{file} differs");
    }
}

#[expect(clippy::disallowed_methods, reason = "two requests are told from one by the time between them")]
fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// A run that writes more than anybody reads, and so stands still between two steps.
fn stuck(place: &Place, flags: &str) -> Child {
    let child = place.command(flags).spawn().unwrap();
    let told = child.stderr.as_ref().unwrap();
    let written = || rustix::io::ioctl_fionread(told).unwrap();
    // A pipe takes some 64 KiB.
    let mut before = 0;
    while written() != before || before < 32 << 10 {
        before = written();
        pause(100);
    }
    child
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::with_lines(300);
    for (signal, code) in [(Signal::TERM, 75), (Signal::INT, 130)] {
        // On a busy machine it may not have stood still yet, and then ends by the first one.
        let met = (0..20).any(|n| {
            let mut child = stuck(&place, &format!("{ENDLESS} -o run-{code}-{n}"));
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            kill_process(pid, signal).unwrap();
            pause(400);
            let waits = child.try_wait().unwrap().is_none();
            if waits {
                kill_process(pid, signal).unwrap();
            }
            assert_eq!(child.wait().unwrap().code(), Some(code));
            waits
        });
        assert!(met, "{signal:?}: the first one lets it finish its step, the second does not");
    }
}

#[test]
fn a_second_run_is_refused_with_the_pid_of_the_first_until_that_is_killed() {
    let place = Place::with_lines(300);
    let mut first = stuck(&place, &format!("{ENDLESS} -o run --save-every 20"));
    for second in ["train --resume run".to_owned(), format!("{ENDLESS} -o run")] {
        let refused = place.run(&second);
        assert_eq!(refused.code, 73, "{second}: {}", refused.stderr);
    }
    let refused = place.run("train --resume run");
    assert!(refused.stderr.contains(&format!("pid {}", first.id())), "{}", refused.stderr);
    assert!(first.try_wait().unwrap().is_none(), "the first is not disturbed");
    first.kill().unwrap();
    first.wait().unwrap();
    place.good("train --resume run --steps 1");
}

/// `timeout` signals a process and then its group: the same request, told twice in an instant.
#[test]
fn signals_in_one_instant_are_one_request() {
    let place = Place::with_lines(300);
    let (status, told) = meet(&place, &format!("{RUN} -o run"), 20, Signal::TERM, 2);
    assert_eq!(status.code(), Some(75), "{told}");
    assert!(told.contains("--resume run"), "a checkpoint was saved: {told}");
}
