//! What is large and allowed: others do not wait for it.

use std::time::{Duration, Instant};

use rekeeper_shared::domain::document::pack;

use crate::cluster::{Size, cluster};
use crate::flood::Caller;
use crate::inspected;
use crate::program::Program;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_plan_of_many_tables() {
    let program = Program::start().await;
    let inventory = cluster(Size {
        shards: 1,
        tables: 10_000,
        sound: false,
    })
    .remove(0);
    let mut agent = Caller::attend(&program, inventory.host.as_str()).await.unwrap();
    let mut operator = Program::operator(program.channel().await).await;
    let plan = tokio::spawn(program.plan("m"));
    let request = agent.is_inspected().await;
    let inventory = pack(&inventory).unwrap().bytes;
    let told = Instant::now();
    agent.say(inspected(request, inventory)).await;
    let mut longest = Duration::ZERO;
    while !plan.is_finished() {
        longest = longest.max(program.hosts(&mut operator).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = told.elapsed();
    let view = plan.await.unwrap().unwrap();
    assert!(view.contains("\"blockers\":[{"), "{}", &view[..200]);
    println!("planned in {took:?}; hosts answered within {longest:?}");
    assert!(
        longest < took / 4,
        "hosts waited {longest:?} of the {took:?} that the plan took"
    );
}
