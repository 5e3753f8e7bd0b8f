use cakes_model::database::Call;
use cakes_model::system::System;
use stateright::{Checker, Model};
use std::time::Instant;

#[test]
fn probe() {
    let mut system = System::small();
    let has = |name: &str| std::env::var("P").unwrap_or_default().contains(name);
    let num = |name: &str, or: u8| std::env::var(name).ok().map_or(or, |v| v.parse().unwrap());
    system.fresh = has("fresh");
    system.ghosts = has("ghosts");
    system.fences = !has("nofence");
    system.drops = has("drops");
    system.collect = has("collect");
    system.amnesty = has("amnesty");
    system.failover = has("failover");
    system.epochs = num("E", 2);
    system.steps = num("S", 2);
    system.crashes = num("C", 1);
    if has("lastsave") {
        system.saves = vec![system.steps];
    }
    if has("fail") {
        system.failures = vec![cakes_coordinator::core::retry::FailureClass::Infrastructure];
    }
    if has("cancel") {
        system.intents.push(Call::Cancel { job: 0 });
    }
    if has("pause") {
        system.intents.extend([Call::Pause { job: 0 }, Call::Resume { job: 0 }]);
    }
    if has("retry") {
        system.intents.push(Call::Retry { job: 0 });
    }
    let start = Instant::now();
    let limit = std::time::Duration::from_secs(u64::from(num("T", 60)));
    let checker = system.checker().threads(num("N", 2) as usize).timeout(limit).spawn_bfs().join();
    println!(
        "{} states, {} unique, depth {}, {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed()
    );
    for (name, path) in checker.discoveries() {
        println!("{name}: {:#?}", path.into_actions());
    }
}
