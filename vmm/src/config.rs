//! Reads the machine's configuration; its meaning and limits are [`sublet_vmm_protocol::config`]'s.

use std::io::{self, Read};

use sublet_vmm_protocol::{ConfigError, LINE_LIMIT, MachineConfig};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ReadConfigError {
    #[error("cannot read the configuration from standard input")]
    Read(#[source] io::Error),
    #[error("the configuration is longer than {LINE_LIMIT} bytes")]
    TooLong,
    #[error("the configuration is not a machine in JSON")]
    Malformed(#[source] serde_json::Error),
    #[error("the configuration is not valid")]
    Invalid(#[source] ConfigError),
}

/// Reads one configuration to the end of `from` and checks it.
pub fn read(from: impl Read) -> Result<MachineConfig, ReadConfigError> {
    let mut bytes = Vec::new();
    from.take(LINE_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(ReadConfigError::Read)?;
    if bytes.len() > LINE_LIMIT {
        return Err(ReadConfigError::TooLong);
    }
    let config: MachineConfig = serde_json::from_slice(&bytes).map_err(ReadConfigError::Malformed)?;
    config.validate().map_err(ReadConfigError::Invalid)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"version":2,"name":"p1","user":70000,"vcpu_host_cpus":[0],"memory_mib":64,
        "console":{"path":"c","capacity_bytes":4096},"control_socket":"s"}"#;

    #[test]
    fn a_machine_is_read() {
        let config = read(SMALL.as_bytes()).unwrap();
        assert_eq!((config.name.as_str(), config.memory_mib), ("p1", 64));
    }

    #[test]
    fn an_endless_configuration_is_given_up_on() {
        assert!(matches!(read(io::repeat(b' ')), Err(ReadConfigError::TooLong)));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = SMALL.replace("\"name\"", "\"colour\":\"red\",\"name\"");
        assert!(matches!(read(text.as_bytes()), Err(ReadConfigError::Malformed(_))));
    }

    #[test]
    fn a_machine_out_of_its_limits_is_refused() {
        let text = SMALL.replace("64", "1");
        assert!(matches!(read(text.as_bytes()), Err(ReadConfigError::Invalid(ConfigError::Memory(1)))));
    }
}
