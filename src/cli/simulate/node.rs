//! How the simulator starts a node of the product.

use futures::future::LocalBoxFuture;
use hourmark::config::Config;
use hourmark::node;
use hourmark::rollup::Engine;
use simulation::NodeStart;

/// A node of the product, set up as the plan says: small files and short intervals, so that a run of minutes meets what takes
/// production hours.
pub fn start(start: NodeStart) -> LocalBoxFuture<'static, Result<(), String>> {
    let config = Config {
        data_dir: ".".into(),
        http_addr: start.http_address,
        cluster_addr: start.cluster_address,
        join: start.join,
        node_name: start.name,
        partitions: start.partitions,
        segment_bytes: usize::try_from(start.segment_bytes).expect("a simulated file fits into memory"),
        log_bytes_max: usize::try_from(start.log_bytes_max).expect("a simulated log fits into memory"),
        checkpoint_interval: start.checkpoint_interval,
        write_out_interval: start.write_out_interval,
        replace_after: Some(start.replace_after),
        // Wall clocks jump, and an event that another node takes must not be refused for that.
        max_future: None,
        ..Config::default()
    };
    Box::pin(async move {
        let ended = node::run(config, start.environment, Engine::Journal, start.shutdown, |_| {}).await;
        ended.map_err(|error| error.to_string())
    })
}
