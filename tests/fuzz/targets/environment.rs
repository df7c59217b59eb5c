//! The environment: any variables give a configuration or problems that name them, and neither tells a password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::load_environment;

const PASSWORD: &str = "correct-horse-battery-staple";

fuzz_target!(|text: &str| {
    let pairs = text.split('\n').filter_map(|line| line.split_once('='));
    let mut variables: Vec<(String, String)> = pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect();
    variables.retain(|(name, _)| !name.starts_with("DATABASES_"));
    variables.push(("DATABASES_HOST".to_string(), "h".to_string()));
    variables.push(("DATABASES_PASSWORD".to_string(), PASSWORD.to_string()));
    let told: Vec<String> = match load_environment(&variables) {
        Ok(config) => {
            assert!(!config.databases.is_empty());
            config.given.iter().map(ToString::to_string).chain(config.notices).collect()
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            problems.iter().map(ToString::to_string).collect()
        }
    };
    assert!(told.iter().all(|line| !line.is_empty() && !line.contains(PASSWORD)));
});
