//! The person who runs the command, for the records that it leaves.

/// Returns the person as `user@host`, as far as the system names them.
pub(crate) fn operator() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|host| host.into_string().ok());
    let or_unknown = |name: Option<String>| name.unwrap_or_else(|| "unknown".into());
    format!("{}@{}", or_unknown(user), or_unknown(host))
}

#[cfg(test)]
mod tests {
    use super::operator;

    #[test]
    fn operator_has_user_and_host() {
        let (user, host) = operator()
            .split_once('@')
            .map(|(user, host)| (user.to_owned(), host.to_owned()))
            .expect("user@host");
        assert!(!user.is_empty() && !host.is_empty());
    }
}
