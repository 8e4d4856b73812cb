use simulation::{run::run, scenario::Scenario, settings::Settings};
fn main() {
    let only = std::env::args().nth(1);
    for scenario in Scenario::all() {
        if only.as_ref().is_some_and(|only| !scenario.name.contains(only.as_str())) { continue; }
        println!("\n## {}", scenario.name);
        for settings in Settings::all() {
            let f = run(&scenario, &settings, 1);
            println!("{:14} {:32} ok {:7.3} after {:7.3} p50 {:6} p99 {:6} att {:.3} ill {:.2} ej {:.2} t {:?} ret {:?} well {}",
                settings.group, settings.name, f.success*100., f.success_after*100., f.p50.as_millis(), f.p99.as_millis(),
                f.attempts, f.at_ill.unwrap_or(0.), f.ejected.unwrap_or(0.), f.time_to_eject.map(|d| d.as_secs_f32()), f.time_to_return.map(|d| d.as_secs()), f.well_ejected);
        }
    }
}
