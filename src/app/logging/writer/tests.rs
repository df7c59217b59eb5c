use std::io::{PipeReader, Read, pipe};
use std::os::fd::OwnedFd;

use super::*;

fn notices() -> Notices {
    Notices { stamps: Stamps::new(TimeZone::UTC), format: Format::Json, by: line::Writer::this_process() }
}

fn on_pipe() -> (PipeReader, Output) {
    let (reader, writer) = pipe().unwrap();
    let output = Output { patience: Duration::ZERO, ..Output::new(File::from(OwnedFd::from(writer))) };
    (reader, output)
}

fn lines(count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{number:>99}\n").into_bytes()).collect()
}

fn record() -> Record {
    Record::of(Format::Pgbouncer, "x".repeat(1000))
}

#[test]
fn a_reader_that_sleeps_costs_its_lines_and_blocks_nobody() {
    let (mut reader, mut output) = on_pipe();

    output.write(&lines(10_000), &mut notices());
    let lost = output.lost.lines;
    output.write(&lines(5), &mut notices());

    assert!(lost > 1000, "a pipe holds 64 KiB, not a megabyte: lost {lost}");
    assert_eq!(output.lost.lines, lost + 5);
    let mut taken = vec![0; 1 << 20];
    let len = reader.read(&mut taken).unwrap();
    assert_eq!(len as u64, (10_000 - lost) * 100, "what was taken is whole lines");
}

#[test]
fn a_reader_that_wakes_up_is_told_what_it_missed() {
    let (mut reader, mut output) = on_pipe();
    output.write(&lines(10_000), &mut notices());
    let lost = output.lost.lines;
    let mut taken = vec![0; 1 << 20];
    let _ = reader.read(&mut taken).unwrap();

    output.write(b"next\n", &mut notices());
    drop(output);

    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    let (notice, next) = rest.split_once('\n').unwrap();
    let notice: serde_json::Value = serde_json::from_str(notice).unwrap();
    assert_eq!(notice["msg"], format!("{lost} log lines lost: nobody reads them"));
    assert_eq!(next, "next\n");
}

#[test]
fn a_closed_stderr_and_a_full_disk_are_survived() {
    let (reader, closed) = on_pipe();
    drop(reader);
    let full = Output::file(Path::new("/dev/full")).unwrap();
    let mut outputs = Outputs { stderr: Some(closed), file: Some(full), records: Vec::new() };
    let batch = |count| Batch { text: String::from_utf8(lines(count)).unwrap(), lines: Vec::new() };

    outputs.write(&batch(3), &mut notices());
    outputs.write(&batch(2), &mut notices());

    for output in outputs.file.iter().chain(&outputs.stderr) {
        assert_eq!(output.lost.lines, 5, "{}", output.lost.reason);
    }
}

#[test]
fn a_flood_costs_lines_and_not_memory() {
    let queue = Queue::new(TimeZone::UTC);

    for _ in 0..3000 {
        queue.push(Level::Log, &record(), || SystemTime::UNIX_EPOCH);
    }

    let state = queue.lock();
    assert!(state.pending.text.len() < PENDING_MAX + 2000);
    assert_eq!(state.pushed + state.dropped, 3000);
    assert!(state.dropped > 1000);
}

#[test]
fn a_long_line_is_cut_at_the_pipes_measure_and_short_ones_between_lines() {
    assert_eq!(part_len(&lines(2)), 200);
    assert_eq!(part_len(&lines(50)), 4000);
    assert_eq!(part_len(&[b'x'; 5000]), PART_MAX);
}

#[test]
fn lines_of_many_threads_come_whole_and_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let outputs = Outputs { file: Some(Output::file(&path).unwrap()), ..Outputs::default() };
    let writer = Writer::start(outputs, TimeZone::UTC).unwrap();

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    writer.queue.push(Level::Log, &record(), || SystemTime::UNIX_EPOCH);
                }
            });
        }
    });
    drop(writer);

    let log = std::fs::read_to_string(&path).unwrap();
    let expected = format!("1970-01-01 00:00:00.000 UTC [{}] LOG {}", std::process::id(), "x".repeat(1000));
    assert_eq!(log.lines().count(), 200);
    assert!(log.lines().all(|line| line == expected));
}

#[test]
fn a_line_waits_only_where_many_are_written() {
    let at = |millis: u64| Moment(1 + millis * 1000);
    let mut pace = Pace::new(at(0));

    let rests: Vec<Duration> = (1..=PROMPT_WRITES).map(|_| pace.rest_after_write(at(10))).collect();

    assert!(rests[..rests.len() - 1].iter().all(Duration::is_zero), "{rests:?}");
    assert_eq!(rests.last(), Some(&Duration::from_millis(40)), "the remainder of the 50 ms");
    assert_eq!(pace.rest_after_write(at(50)), Duration::ZERO, "a new count");
}
