"""What the paper prints, as it prints it: Tables 1 to 4 and the numbers of its text."""

from functools import cache
from typing import NamedTuple

from dsrm_jax.agents import methods

ENVIRONMENTS = {"kuairec": "KuaiRec", "kuairand": "KuaiRand-Pure"}
METHODS = ("a2c", "td3", "bcq", "mofir", "dorl", "dnair", "sac4ir", "dsrm_hrl")
ABLATIONS = ("flat", "hrl", "hrl_rce", "hrl_tce", "hrl_bod", "dsrm_hrl")
YARDSTICKS = ("quota_random", "quota_greedy", "quota_greedy_purified", "oracle")
METRICS = ("length", "reward", "return", "ad")
MAX_LENS = (30, 50)

# users, items, interactions as printed
TABLE1 = {
    ("kuairec", "train"): ("7,176", "10,728", "12,530.8k"),
    ("kuairec", "test"): ("1,411", "3,327", "4,676.5k"),
    ("kuairand", "train"): ("26,285", "7,551", "1,436.6k"),
    ("kuairand", "test"): ("27,285", "7,583", "1,186.1k"),
}

# method, then Len, R_each, R_cum, AD at Max Len 30 and the same at Max Len 50
TABLE2 = {
    "kuairec": """
a2c 13.433±0.236 0.620±0.056 8.339±0.903 0.498±0.085 22.633±0.386 0.680±0.057 15.422±1.727 0.577±0.137
td3 15.567±1.733 0.801±0.029 12.007±1.260 0.428±0.073 32.267±6.712 0.850±0.022 26.627±6.444 0.293±0.081
bcq 20.800±0.616 0.757±0.004 15.036±0.314 0.021±0.003 34.067±0.759 0.825±0.003 28.043±0.343 0.037±0.007
mofir 13.733±1.406 0.577±0.092 7.852±1.816 0.668±0.130 22.933±1.901 0.616±0.093 14.596±3.295 0.668±0.120
dorl 14.700±2.376 0.579±0.061 7.490±0.889 0.466±0.236 22.133±0.939 0.667±0.100 14.564±3.407 0.548±0.041
dnair 21.733±2.713 0.809±0.014 17.699±2.704 0.083±0.056 23.767±0.330 0.809±0.023 19.325±0.440 0.660±0.026
sac4ir 21.967±0.450 0.828±0.026 18.116±1.236 0.013±0.003 33.633±5.329 0.865±0.029 29.470±5.577 0.151±0.196
dsrm_hrl 26.600±0.816 0.917±0.010 23.752±1.043 0.008±0.003 34.850±0.350 0.870±0.001 30.419±0.485 0.044±0.011
""",
    "kuairand": """
a2c 13.667±0.125 0.730±0.014 9.813±0.300 0.923±0.013 23.167±0.125 0.819±0.008 18.271±0.671 0.925±0.011
td3 16.233±2.311 0.810±0.004 12.468±1.913 0.344±0.175 31.233±7.811 0.842±0.019 25.811±7.307 0.298±0.208
bcq 17.133±0.330 0.789±0.004 12.925±0.117 0.295±0.035 25.900±2.974 0.838±0.008 20.395±2.474 0.514±0.215
mofir 13.900±0.216 0.745±0.015 10.172±0.333 0.813±0.077 23.700±0.920 0.833±0.009 18.486±0.487 0.805±0.088
dorl 13.700±0.082 0.727±0.017 9.724±0.236 0.946±0.013 23.100±0.082 0.812±0.003 17.766±0.236 0.954±0.015
dnair 16.267±2.176 0.815±0.016 12.832±1.767 0.559±0.349 31.800±7.105 0.847±0.013 26.299±6.319 0.443±0.286
sac4ir 14.000±0.000 0.788±0.001 10.862±0.069 0.674±0.009 28.433±6.557 0.834±0.006 23.123±5.776 0.394±0.265
dsrm_hrl 24.067±1.396 0.849±0.007 19.750±1.392 0.011±0.003 35.133±0.858 0.848±0.001 29.086±0.505 0.024±0.009
""",
}
TABLE3 = {
    "kuairec": """
flat 24.333±0.741 0.911±0.003 22.081±1.008 0.013±0.005 31.267±4.658 0.870±0.045 26.691±2.693 0.222±0.291
hrl 23.167±0.411 0.895±0.016 19.942±0.723 0.013±0.001 33.400±0.566 0.863±0.005 28.055±0.396 0.016±0.002
hrl_rce 15.167±0.386 0.653±0.004 9.588±0.184 0.032±0.001 25.500±0.852 0.737±0.002 17.528±0.104 0.029±0.004
hrl_tce 15.867±0.403 0.746±0.007 11.491±0.353 0.030±0.002 25.800±0.497 0.793±0.012 20.293±0.444 0.040±0.005
hrl_bod 15.867±1.793 0.761±0.033 11.740±2.156 0.479±0.303 28.800±3.910 0.827±0.049 23.114±3.816 0.209±0.252
dsrm_hrl 26.600±0.816 0.917±0.010 23.752±1.043 0.008±0.003 34.850±0.350 0.870±0.001 30.419±0.485 0.044±0.011
""",
    "kuairand": """
flat 21.767±2.816 0.830±0.005 18.105±2.531 0.178±0.128 30.733±2.444 0.813±0.003 24.738±2.083 0.136±0.127
hrl 19.200±3.608 0.841±0.008 15.678±2.900 0.311±0.420 27.533±4.997 0.846±0.010 22.460±4.351 0.593±0.409
hrl_rce 15.100±0.082 0.765±0.002 11.267±0.020 0.047±0.006 25.833±0.377 0.835±0.001 20.428±0.208 0.035±0.005
hrl_tce 15.333±0.262 0.785±0.005 11.448±0.074 0.041±0.004 25.600±0.216 0.833±0.003 20.217±0.165 0.034±0.005
hrl_bod 14.233±0.170 0.780±0.011 10.865±0.179 0.747±0.055 25.533±1.112 0.838±0.005 20.316±1.355 0.577±0.167
dsrm_hrl 24.067±1.396 0.849±0.007 19.750±1.392 0.011±0.003 35.133±0.858 0.848±0.001 29.086±0.505 0.024±0.009
""",
}

# seconds on KuaiRec, Max Len 30, 20,000 steps
TABLE4 = {
    "a2c": 7512.144,
    "sac4ir": 6754.545,
    "dnair": 5934.623,
    "hrl": 8462.525,
    "hrl_rce": 29919.296,
    "dsrm_hrl": 15909.175,
}


class Printed(NamedTuple):
    """A printed cell: mean and standard deviation over the paper's seeds."""

    mean: float
    deviation: float


def family(env: str) -> str:
    """Return the paper's data set that a data set belongs to: `kuairec-signed` is of KuaiRec."""
    return env.split("-")[0]


def env_name(env: str) -> str:
    """Return a data set's name as the paper writes it."""
    return ENVIRONMENTS.get(env, env)


def cell_name(env: str, max_len: int) -> str:
    """Return the name of a cell of the tables, such as `KuaiRec 30`."""
    return f"{env_name(env)} {max_len}"


def method_name(method: str) -> str:
    """Return a method's name as the paper writes it."""
    return methods.METHODS[method].label if method in methods.METHODS else method


@cache
def printed_rows() -> dict[tuple[str, int, str], dict[str, Printed]]:
    """Return every row of Tables 2 and 3: `(env, max_len, method)` to metric (`METRICS`) to its cell."""
    rows = {}
    for table in (TABLE2, TABLE3):
        for env, text in table.items():
            for line in text.strip().splitlines():
                method, *cells = line.split()
                values = [Printed(*map(float, cell.split("±"))) for cell in cells]
                for i, max_len in enumerate(MAX_LENS):
                    part = values[len(METRICS) * i : len(METRICS) * (i + 1)]
                    rows[env, max_len, method] = dict(zip(METRICS, part, strict=True))
    return rows


def printed(env: str, max_len: int, method: str, metric: str) -> Printed | None:
    """Return one printed cell of Table 2 or 3, or None where the paper has none."""
    return printed_rows().get((family(env), max_len, method), {}).get(metric)
