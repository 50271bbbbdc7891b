use super::{
    Action, Arch, Call, Comparison, Condition, Filter, FilterError, Rule, Table, Verdict, evaluate,
    install,
};

/// The rules read straight, without any program.
fn straight(filter: &Filter, call: &Call) -> Action {
    let Some(table) = filter
        .tables
        .iter()
        .find(|table| table.arch.audit() == call.arch)
    else {
        return filter.other_arch;
    };
    let (_, verdict) = table
        .ranges
        .iter()
        .rfind(|range| range.0 <= call.number)
        .unwrap();
    let holds = |rule: &&Rule| {
        rule.conditions
            .iter()
            .all(|c| c.comparison.holds(call.arguments[usize::from(c.argument)]))
    };
    verdict
        .rules
        .iter()
        .find(holds)
        .map_or(verdict.otherwise, |rule| rule.action)
}

/// A small generator, so that a failure can be repeated from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Values at which comparisons change their mind, more often than chance would give.
    fn argument(&mut self) -> u64 {
        const EDGES: [u64; 8] = [
            0,
            1,
            40,
            u32::MAX as u64,
            1 << 32,
            (1 << 32) + 40,
            u64::MAX,
            0x7e02_0000,
        ];
        match self.below(3) {
            0 => self.next(),
            1 => self.below(64),
            _ => EDGES[self.below(8) as usize]
                .wrapping_add(self.below(3))
                .wrapping_sub(1),
        }
    }

    fn action(&mut self) -> Action {
        const ACTIONS: [Action; 7] = [
            Action::Allow,
            Action::Errno(1),
            Action::Errno(38),
            Action::KillProcess,
            Action::Log,
            Action::Trap,
            Action::Trace(7),
        ];
        ACTIONS[self.below(7) as usize]
    }

    fn condition(&mut self) -> Condition {
        let value = self.argument();
        let comparison = match self.below(7) {
            0 => Comparison::Equal(value),
            1 => Comparison::NotEqual(value),
            2 => Comparison::Less(value),
            3 => Comparison::LessOrEqual(value),
            4 => Comparison::Greater(value),
            5 => Comparison::GreaterOrEqual(value),
            _ => {
                let mask = self.argument();
                Comparison::Masked {
                    mask,
                    value: value & mask,
                }
            }
        };
        Condition {
            argument: self.below(6) as u8,
            comparison,
        }
    }

    fn verdict(&mut self) -> Verdict {
        let rules = if self.below(3) == 0 { self.below(4) } else { 0 };
        let rule = |random: &mut Self| Rule {
            conditions: (0..=random.below(3)).map(|_| random.condition()).collect(),
            action: random.action(),
        };
        Verdict {
            rules: (0..rules).map(|_| rule(self)).collect(),
            otherwise: self.action(),
        }
    }

    fn table(&mut self, arch: Arch) -> Table {
        let mut ranges = vec![(0, self.verdict())];
        let density = 1 + self.below(40);
        for number in 1..600 {
            if self.below(density) == 0 && ranges.len() < 110 {
                ranges.push((number, self.verdict()));
            }
        }
        Table { arch, ranges }
    }
}

#[test]
fn the_program_says_what_the_rules_say() {
    for seed in 1..=120u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let filter = Filter {
            tables: vec![random.table(Arch::X86_64), random.table(Arch::X86)],
            other_arch: Action::KillThread,
        };
        let program = match filter.assemble() {
            Ok(program) => program,
            Err(FilterError::TooLong { .. }) => continue,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        for number in (0..600).chain([u32::MAX, 0x4000_0000]) {
            for arch in [Arch::X86_64, Arch::X86, Arch::Arm] {
                let arguments = std::array::from_fn(|_| random.argument());
                let call = Call {
                    arch: arch.audit(),
                    number,
                    arguments,
                };
                let expected = straight(&filter, &call).value();
                assert_eq!(
                    evaluate(&program, &call).unwrap().0,
                    expected,
                    "seed {seed} {call:x?}"
                );
            }
        }
    }
}

#[test]
fn every_second_number_allowed_is_searched_in_few_steps() {
    let verdict = |number: u32| {
        Verdict::from(if number.is_multiple_of(2) {
            Action::Allow
        } else {
            Action::Errno(1)
        })
    };
    let ranges = (0..600).map(|number| (number, verdict(number))).collect();
    let filter = Filter {
        tables: vec![Table {
            arch: Arch::X86_64,
            ranges,
        }],
        other_arch: Action::KillThread,
    };
    let program = filter.assemble().unwrap();
    for number in 0..700 {
        let call = Call {
            arch: Arch::X86_64.audit(),
            number,
            arguments: [0; 6],
        };
        let (value, steps) = evaluate(&program, &call).unwrap();
        assert_eq!(value, straight(&filter, &call).value());
        assert!(steps <= 20, "{number}: {steps} steps");
    }
}

#[test]
fn a_table_that_does_not_ascend_is_refused() {
    let table = |numbers: &[u32]| Table {
        arch: Arch::X86,
        ranges: numbers
            .iter()
            .map(|number| (*number, Action::Allow.into()))
            .collect(),
    };
    for numbers in [&[][..], &[1], &[0, 5, 5], &[0, 7, 3]] {
        let filter = Filter {
            tables: vec![table(numbers)],
            other_arch: Action::Trap,
        };
        assert_eq!(
            filter.assemble(),
            Err(FilterError::Unordered { arch: Arch::X86 })
        );
    }
}

#[test]
fn a_filter_that_the_kernel_would_refuse_is_refused_here() {
    let mut random = Random(77);
    let rules = (0..2000)
        .map(|_| Rule {
            conditions: vec![random.condition()],
            action: Action::Errno(1),
        })
        .collect();
    let verdict = Verdict {
        rules,
        otherwise: Action::Allow,
    };
    let filter = Filter {
        tables: vec![Table {
            arch: Arch::X86_64,
            ranges: vec![(0, verdict)],
        }],
        other_arch: Action::KillThread,
    };
    assert!(matches!(
        filter.assemble(),
        Err(FilterError::TooLong { .. })
    ));
}

#[test]
fn an_installed_filter_denies_what_it_says() {
    // A filter belongs to its thread, so the test's other threads do not see it.
    let nr = |number: libc::c_long| u32::try_from(number).unwrap();
    let limited = Verdict {
        rules: vec![Rule {
            conditions: vec![Condition {
                argument: 0,
                comparison: Comparison::Greater(1 << 33),
            }],
            action: Action::Errno(77),
        }],
        otherwise: Action::Allow,
    };
    let mut ranges = vec![(0, Verdict::from(Action::Allow))];
    let mut special = [
        (nr(libc::SYS_getppid), Action::Errno(99).into()),
        (nr(libc::SYS_getpgid), limited),
    ];
    special.sort_by_key(|entry| entry.0);
    for (number, verdict) in special {
        ranges.push((number, verdict));
        ranges.push((number + 1, Action::Allow.into()));
    }
    let filter = Filter {
        tables: vec![Table {
            arch: Arch::NATIVE,
            ranges,
        }],
        other_arch: Action::KillProcess,
    };
    let program = filter.assemble().unwrap();
    std::thread::spawn(move || {
        install(&program).unwrap();
        // SAFETY: calls without pointers.
        let errno = |number: libc::c_long, argument: u64| unsafe {
            match libc::syscall(number, argument) {
                -1 => std::io::Error::last_os_error().raw_os_error().unwrap(),
                _ => 0,
            }
        };
        assert_eq!(errno(libc::SYS_getppid, 0), 99);
        assert_eq!(errno(libc::SYS_getpid, 0), 0);
        assert_eq!(errno(libc::SYS_getpgid, 0), 0);
        assert_eq!(errno(libc::SYS_getpgid, 1 << 34), 77);
    })
    .join()
    .unwrap();
}
