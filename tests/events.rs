//! With the feature `tracing`, what happens seldom is told as events; what happens with each message is not.

mod common;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use common::{drain_numbers, send, small_channel};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down each event: its level, what it says, the names of its values.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0 += &format!(" {value:?}"),
            name => self.0 += &format!(" {name}"),
        }
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("disk_chan")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        panic!("there are no spans");
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn opening_and_closing_are_events_and_messages_are_none() {
    let events = Events::default();
    tracing::subscriber::with_default(events.clone(), || {
        let (_dir, channel) = small_channel();
        let mut rx = channel.blocking_subscribe("g").unwrap();
        send(&channel.sender(), 0..1000, 20);
        assert_eq!(drain_numbers(&mut rx).len(), 1000);
    });
    let mut told = events.0.lock().unwrap().clone();
    told.iter_mut().for_each(|text| *text = text.split_whitespace().collect::<Vec<_>>().join(" "));
    told.sort();
    assert_eq!(told, ["DEBUG closed path open", "DEBUG opened path open freed"]);
}
