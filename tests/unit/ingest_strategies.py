"""Hypothesis strategies for CloudEvents, good and bad."""

from hypothesis import strategies as st

GOOD = {"specversion": "1.0", "id": "req-7731", "source": "edge-gw-2", "type": "gpu.job", "subject": "acme-prod"}

letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
names = st.one_of(
    st.sampled_from(["", "a", "käse", "x" * 1024, "x" * 1025, "a b", "\0", "a\u2028b", "<&>", None, 1, [], {}]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
sources = st.sampled_from(
    ["edge-gw-2", "%%", "a%20b", "%zz", ":x", "urn:x:y", "https://h/p?q#f", "//h:80/x", "a b", "", "\n", "käse", 7]
)
times = st.one_of(
    st.none(),
    st.sampled_from(
        [
            "2031-02-03T04:05:06.789+01:00",
            "2031-02-03t04:05:06z",
            "2031-02-03T04:05:06.9999999Z",
            "2031-02-03T04:05:06.999999999-23:59",
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00.000001Z",
            "2199-12-31T23:59:59.999999Z",
            "2200-01-01T00:00:00Z",
            "2200-01-01T00:30:00+01:00",
            "1970-01-01T00:30:00+01:00",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
            "2031-02-03",
            "2031-02-03T04:05:06",
            "2031-02-03 04:05:06Z",
            "2031-02-03T04:05:06+0100",
            "2031-02-30T04:05:06Z",
            "2031-02-03T24:00:00Z",
            "2031-02-03T04:05:60Z",
            "2031-02-03T04:05:06,5Z",
            "",
            "now",
            7,
            {},
        ]
    ),
    st.datetimes().map(lambda t: t.isoformat() + "Z"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    letters,
)
datas = st.one_of(
    st.none(),
    st.dictionaries(
        letters,
        st.recursive(
            scalars,
            lambda inner: st.lists(inner) | st.dictionaries(letters, inner),
            max_leaves=5,
        ),
        max_size=4,
    ),
    st.sampled_from(["text", 1, [], [{}], True, ""]),
)
events = st.fixed_dictionaries(
    {},
    optional={
        "id": names | st.just("req-1"),
        "source": sources | st.just("edge"),
        "specversion": st.sampled_from(["1.0", "1.0", "1.0", "0.3", "2.0", "", None, 1]),
        "type": names | st.just("t"),
        "subject": names | st.just("s"),
        "time": times,
        "data": datas,
        "datacontenttype": st.sampled_from(
            ["application/json", None, "application/json; charset=utf-8", "text/xml", 1]
        ),
        "dataschema": st.sampled_from(["https://x/y", None, 1, {}]),
        "traceparent": scalars | st.just({}),
        "bad_ext": st.just("x"),
        "Ext1": st.just("x"),
    },
)
near_events = st.builds(
    lambda changes, drop: {name: value for name, value in {**GOOD, **changes}.items() if name != drop},
    st.fixed_dictionaries({}, optional={"time": times, "data": datas, "source": sources, "id": names, "traceparent": scalars, "specversion": st.sampled_from(["0.3", "1.0", "2.0"])}),
    st.sampled_from(["", "", "", "id", "subject"]),
)  # fmt: skip
any_events = st.one_of(near_events, events, scalars, st.just([]))
