//! Draws of faults: a pure function of the seed, the order id and the number of the request for that order.
//!
//! A draw does not depend on time or on the order of arrival, so a run with the same seed meets the same
//! faults however its requests interleave.

use std::time::Duration;

use super::{Fault, Faults};

/// Draw for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) fault: Option<Fault>,
    pub(crate) slow: bool,
}

impl Faults {
    /// Returns the draw for request number `nth` (from 1) of an order.
    pub(crate) fn draw(&self, order_id: &str, nth: u32) -> Draw {
        if self.is_failing_order(order_id) && (self.failing_requests == 0 || nth <= self.failing_requests) {
            return Draw {
                fault: Some(Fault::Throttle),
                slow: false,
            };
        }
        // Without faults, no hash is computed: benchmarks measure the pipeline, not the stand-in.
        if self.faults_sum() == 0.0 && self.slow == 0.0 {
            return Draw {
                fault: None,
                slow: false,
            };
        }
        let [first, second] = fractions(self.seed, nth, order_id);
        Draw {
            fault: self.fault_at(first),
            slow: second < self.slow,
        }
    }

    /// Reports whether the API rejects this order each time it is sent.
    pub(crate) fn rejects(&self, order_id: &str) -> bool {
        // Requests are numbered from 1; number 0 serves draws for the order as a whole.
        self.reject > 0.0 && fractions(self.seed, 0, order_id)[0] < self.reject
    }

    /// Reports whether the first requests for this order fail.
    fn is_failing_order(&self, order_id: &str) -> bool {
        // The second number of draw 0, independent of `rejects`.
        self.failing_orders > 0.0 && fractions(self.seed, 0, order_id)[1] < self.failing_orders
    }

    /// Returns the latency of a request.
    pub(crate) fn delay(&self, slow: bool) -> Duration {
        if slow {
            self.latency + self.slow_for
        } else {
            self.latency
        }
    }

    /// Returns the fault at a point in [0, 1), in which each fault takes an interval as long as its rate.
    fn fault_at(&self, mut point: f64) -> Option<Fault> {
        for fault in Fault::ALL {
            let rate = self.rate(fault);
            if point < rate {
                return Some(fault);
            }
            point -= rate;
        }
        None
    }
}

/// Returns two independent numbers in [0, 1), the same on every machine and in every release.
fn fractions(seed: u64, nth: u32, order_id: &str) -> [f64; 2] {
    // A hash and not a random generator: its output is specified, and there is no state to share.
    let mut input = Vec::with_capacity(12 + order_id.len());
    input.extend_from_slice(&seed.to_le_bytes());
    input.extend_from_slice(&nth.to_le_bytes());
    input.extend_from_slice(order_id.as_bytes());
    let hash = blake3::hash(&input);
    let (numbers, _) = hash.as_bytes().as_chunks::<8>();
    [numbers[0], numbers[1]].map(|bytes| {
        // An f64 represents 53 bits exactly.
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const DRAWS: u32 = 100_000;

    fn all_kinds() -> Faults {
        Faults {
            seed: 7,
            before_500: 0.01,
            before_503: 0.02,
            before_reset: 0.03,
            throttle: 0.04,
            lost_silence: 0.05,
            lost_reset: 0.06,
            lost_close: 0.07,
            lost_500: 0.08,
            lost_502: 0.09,
            lost_504: 0.1,
            slow: 0.2,
            reject: 0.03,
            ..Faults::default()
        }
    }

    /// Checks a share within six standard deviations of `DRAWS` draws: one false alarm in 500 million.
    fn assert_share(what: &str, rate: f64, seen: u32) {
        let share = f64::from(seen) / f64::from(DRAWS);
        let bound = 6.0 * (rate * (1.0 - rate) / f64::from(DRAWS)).sqrt();
        assert!((share - rate).abs() <= bound, "{what}: rate {rate}, seen {share}");
    }

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let (faults, other) = (
            all_kinds(),
            Faults {
                seed: 8,
                ..all_kinds()
            },
        );
        let draws = |faults: &Faults| -> Vec<_> {
            (0..1000)
                .map(|n| {
                    (
                        faults.draw(&format!("o-{n}"), 1),
                        faults.rejects(&format!("o-{n}")),
                    )
                })
                .collect()
        };
        assert_eq!(draws(&faults), draws(&faults));
        assert_ne!(draws(&faults), draws(&other));
    }

    #[test]
    fn failing_order_fails_for_its_first_requests() {
        let mut faults = Faults {
            failing_orders: 0.3,
            failing_requests: 4,
            ..Faults::default()
        };
        let is_throttled = |faults: &Faults, order: u32, nth| {
            faults.draw(&format!("o-{order}"), nth).fault == Some(Fault::Throttle)
        };
        let failing: Vec<u32> = (0..DRAWS)
            .filter(|order| is_throttled(&faults, *order, 1))
            .collect();
        assert_share("failing_orders", 0.3, u32::try_from(failing.len()).expect("few"));
        let order = failing[0];
        assert!(is_throttled(&faults, order, 4) && !is_throttled(&faults, order, 5));
        faults.failing_requests = 0;
        assert!(is_throttled(&faults, order, 1_000_000));
    }

    /// Recorded values: a run that was reported with its seed must be the same run after an upgrade.
    #[test]
    fn draws_do_not_change_between_releases() {
        assert_eq!(
            fractions(1, 1, "order-1"),
            [0.2766251884902192, 0.8933024786938661]
        );
    }

    #[test]
    fn rates_hold_over_orders() {
        let faults = all_kinds();
        let (mut seen, mut slow, mut rejected) = (BTreeMap::<Fault, u32>::new(), 0, 0);
        for n in 0..DRAWS {
            let order_id = format!("order-{n}");
            let draw = faults.draw(&order_id, 1);
            if let Some(fault) = draw.fault {
                *seen.entry(fault).or_default() += 1;
            }
            slow += u32::from(draw.slow);
            rejected += u32::from(faults.rejects(&order_id));
        }
        for fault in Fault::ALL {
            assert_share(&format!("{fault:?}"), faults.rate(fault), seen[&fault]);
        }
        assert_share("slow", faults.slow, slow);
        assert_share("reject", faults.reject, rejected);
    }

    #[test]
    fn rates_hold_over_requests_of_one_order() {
        let faults = Faults {
            lost_reset: 0.25,
            ..Faults::default()
        };
        let lost = (1..=DRAWS)
            .filter(|&nth| faults.draw("o", nth).fault.is_some())
            .count();
        assert_share("lost_reset", 0.25, u32::try_from(lost).unwrap());
    }

    #[test]
    fn rates_of_0_and_1_mean_never_and_always() {
        let never = Faults::default();
        let always = Faults {
            lost_504: 1.0,
            slow: 1.0,
            reject: 1.0,
            ..Faults::default()
        };
        for nth in 1..1000 {
            assert_eq!(
                never.draw("o", nth),
                Draw {
                    fault: None,
                    slow: false
                }
            );
            assert_eq!(
                always.draw("o", nth),
                Draw {
                    fault: Some(Fault::Lost504),
                    slow: true
                }
            );
        }
        assert!(always.rejects("o") && !never.rejects("o"));
    }
}
