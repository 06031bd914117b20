"""The rows of the dashboard about requests: overview, requests, saturation, stages and exits."""

from deploy.grafana.panel import ANSWERED, MODEL, POINT, SERVER, Panel, Query, Row, quantile, rate, share

STAGE = "{{model}} stage {{stage}}"
EXIT = "{{model}} exit {{exit}}"

OVERVIEW = Row(
    "Overview",
    (
        Panel(
            "Servers up",
            "Servers that Prometheus can scrape. Look for fewer than you started.",
            "none",
            (Query(f'sum(up{{job="offramp", {SERVER}}})', "up"),),
            "stat",
            4,
            limits=((1, "green"),),
        ),
        Panel(
            "Versions ready",
            "Versions that admit requests, on all servers. 0 means that all callers get errors.",
            "none",
            (Query(f"sum(offramp_model_ready{{{MODEL}}})", "ready"),),
            "stat",
            4,
            limits=((1, "green"),),
        ),
        Panel(
            "Rows answered",
            "Rows answered per second. Compare with the usual load of this hour.",
            "cps",
            (Query(f"sum(rate(offramp_rows_total{{{ANSWERED}}}[$__rate_interval]))", "rows"),),
            "stat",
            4,
        ),
        Panel(
            "Failed requests",
            "Share of requests that ended with INTERNAL. It should be 0; above 1% OfframpErrors fires.",
            "percentunit",
            (
                Query(
                    f'sum(rate(offramp_requests_total{{{MODEL}, outcome="failed"}}[$__rate_interval]))'
                    f" / sum(rate(offramp_requests_total{{{MODEL}}}[$__rate_interval]))",
                    "failed",
                ),
            ),
            "stat",
            4,
            limits=((0, "green"), (0.001, "orange"), (0.01, "red")),
        ),
        Panel(
            "Certificates that hold",
            "Share of the certificates in service that are neither revoked nor broken. It should be 100%.",
            "percentunit",
            (Query(f"avg(offramp_certificate_holds{{{MODEL}}})", "hold"),),
            "stat",
            4,
            limits=((1, "green"),),
        ),
        Panel(
            "Versions refused",
            "Versions or models that the last rescan refused. Above 0, the server's log has the reason.",
            "none",
            (Query(f"sum(offramp_versions_refused{{{SERVER}}})", "refused"),),
            "stat",
            4,
            limits=((0, "green"), (1, "red")),
        ),
        Panel(
            "Alerts",
            "Alerts of deploy/prometheus/rules.yaml that fire. docs/operations.md says what to do.",
            "none",
            (
                Query(
                    'ALERTS{alertname=~"Offramp.*", alertstate="firing"}',
                    "{{alertname}} {{model}} {{operating_point}} {{instance}}",
                ),
            ),
            "state-timeline",
            24,
            states=((1, "firing", "red"),),
        ),
    ),
)

REQUESTS = Row(
    "Requests",
    (
        Panel(
            "Requests by outcome",
            "Requests per second. `failed` is a fault of the server or model; `overloaded` is a lack of "
            "compute; `invalid` and `not_found` are faults of callers.",
            "reqps",
            (Query(rate("offramp_requests_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            "Request time",
            "Time from the arrival of a request to its answer. Look for a 99th percentile that rises while "
            "the median stays: rows wait, or more of them need the whole network.",
            "s",
            tuple(
                Query(quantile(q, "offramp_request_seconds", "model", ANSWERED), f"{{{{model}}}} {name}")
                for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
        ),
        Panel(
            "Requests in flight",
            "Requests admitted and not yet ended. A steady rise means that work arrives faster than it ends.",
            "none",
            (Query(f"offramp_requests_in_flight{{{SERVER}}}", "{{instance}}"),),
        ),
        Panel(
            "Rows by operating point",
            "Rows answered per second, by the operating point in force. After a revocation the rows of a "
            "point appear under its replacement.",
            "cps",
            (
                Query(
                    rate("offramp_rows_exited_total", "model, operating_point"),
                    "{{model}} {{operating_point}}",
                ),
            ),
        ),
        Panel(
            "Request time p99 by operating point",
            "A faster point should have shorter times. If not, most of the time is spent waiting.",
            "s",
            (
                Query(
                    quantile(0.99, "offramp_request_seconds", "model, operating_point", ANSWERED),
                    "{{model}} {{operating_point}}",
                ),
            ),
        ),
        Panel(
            "Other calls",
            "Ended calls per second other than inference, by method and status, and calls refused for their "
            "token. Look for statuses other than OK.",
            "reqps",
            (
                Query(rate("offramp_rpcs_total", "method, code", SERVER), "{{method}} {{code}}"),
                Query(rate("offramp_authentication_failures_total", "reason", SERVER), "token {{reason}}"),
            ),
        ),
    ),
)

SATURATION = Row(
    "Saturation",
    (
        Panel(
            "Queue",
            "Rows admitted and not yet answered, as a share of engine.max_queue_size. At 100% calls are "
            "refused.",
            "percentunit",
            (
                Query(
                    f"offramp_rows_held{{{MODEL}}} / offramp_queue_capacity_rows{{{MODEL}}}",
                    "{{model}}/{{version}} at {{instance}}",
                ),
            ),
            maximum=1,
            limits=((0, "green"), (0.8, "orange"), (1, "red")),
        ),
        Panel(
            "Workers busy",
            "Batches that run, as a share of engine.workers. Near 100% for minutes, the server is at its "
            "limit: add a replica.",
            "percentunit",
            (
                Query(
                    f"offramp_workers_busy{{{SERVER}}} / offramp_workers{{{SERVER}}}",
                    "{{instance}}",
                ),
            ),
            maximum=1,
        ),
        Panel(
            "Rows waiting by stage",
            "Rows that wait for a stage now. If one stage has many, it is the bottleneck.",
            "none",
            (Query(f"sum by (model, stage) (offramp_rows_waiting{{{MODEL}}})", STAGE),),
        ),
    ),
)

STAGES = Row(
    "Stages",
    (
        Panel(
            "Queue time p99 by stage",
            "99 of 100 rows wait at most this long for a stage. Compare with the run time: if waiting "
            "dominates, there are too few workers.",
            "s",
            (Query(quantile(0.99, "offramp_queue_seconds", "model, stage"), STAGE),),
        ),
        Panel(
            "Run time p99 by stage",
            "99 of 100 batches of a stage take at most this long. A rise at equal batch sizes means that "
            "something else uses the device.",
            "s",
            (Query(quantile(0.99, "offramp_stage_seconds", "model, stage"), STAGE),),
        ),
        Panel(
            "Rows in a batch by stage",
            "Mean number of rows in a batch. Under load it should grow, and fall from stage to stage as rows "
            "leave.",
            "none",
            (
                Query(
                    f"{rate('offramp_batch_rows_sum', 'model, stage')}"
                    f" / {rate('offramp_batch_rows_count', 'model, stage')}",
                    STAGE,
                ),
            ),
        ),
    ),
)

EXITS = Row(
    "Exits",
    (
        Panel(
            "Exit shares",
            "Share of the answered rows that leave at each exit. A falling share of exit 0 costs compute and "
            "time; compare with the manifest.",
            "percentunit",
            (Query(share("offramp_rows_exited_total", "exit", "model"), EXIT),),
            maximum=1,
        ),
        Panel(
            "Reasons",
            "Why rows left: confident, at the final exit, or capped by max_exit.",
            "percentunit",
            (Query(share("offramp_rows_exited_total", "reason", "model"), "{{model}} {{reason}}"),),
            maximum=1,
        ),
        Panel(
            "Saved work",
            "Share of the full network's multiply-adds that early exits saved. It falls when inputs become "
            "harder, or when a point is revoked.",
            "percentunit",
            (
                Query(
                    f"{rate('offramp_multiply_adds_saved_total', 'model')} / "
                    f"({rate('offramp_multiply_adds_saved_total', 'model')}"
                    f" + {rate('offramp_multiply_adds_total', 'model')})",
                    "{{model}}",
                ),
            ),
            maximum=1,
        ),
        Panel(
            "Median confidence by exit",
            "Median confidence of the rows that left at an exit. A fall at the final exit means harder or "
            "unfamiliar inputs.",
            "percentunit",
            (Query(quantile(0.5, "offramp_confidence", "model, exit"), EXIT),),
            maximum=1,
        ),
        Panel(
            "Thresholds in force",
            "Smallest confidence that may leave at each exit. Infinity disables the exit. After a revocation "
            "a point shows the thresholds of its replacement.",
            "none",
            (Query(f"offramp_threshold{{{MODEL}}}", POINT),),
            "table",
            16,
        ),
    ),
)

TRAFFIC_ROWS = (OVERVIEW, REQUESTS, SATURATION, STAGES, EXITS)
