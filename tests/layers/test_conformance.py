"""The conformance suite over every layer that there is."""

import itertools
import tempfile

import pytest

pytest.register_assert_rewrite("greenchannels.testing.layers")

from greenchannels.testing.layers import LayerConformance  # noqa: E402
from tests.layers.redis_cluster_harness import running_cluster  # noqa: E402
from tests.layers.redis_harness import second_redis, shared_redis  # noqa: E402
from tests.layers.redis_sentinel_harness import running_sentinels  # noqa: E402
from tests.servers.harness import no_leaks  # noqa: E402

__all__ = ["no_leaks", "second_redis", "shared_redis"]

pytestmark = pytest.mark.usefixtures("no_leaks")


class TestMemory(LayerConformance):
    """One process alone."""

    alone = True

    @pytest.fixture
    def layer_url(self):
        """All are on their own anyway."""
        return "memory://"


class TestIpc(LayerConformance):
    """Several processes on one machine; two layers of one process are no other."""

    @pytest.fixture
    def layer_url(self):
        """A folder of its own."""
        with tempfile.TemporaryDirectory(prefix="gc-") as above:
            yield f"ipc://{above}/app"


class TestRedis(LayerConformance):
    """Processes that meet on a Redis."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, shared_redis):
        """Channels of its own."""
        return shared_redis.url(prefix=f"test{next(self._numbers)}")


class TestHosts(LayerConformance):
    """Two servers that share the topics."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, shared_redis, second_redis):
        """Channels of its own."""
        prefix = f"test{next(self._numbers)}"
        servers = (shared_redis, second_redis)
        return ",".join(server.url(prefix=prefix) for server in servers)


class TestEncrypted(LayerConformance):
    """Messages that only those with the key can read."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, shared_redis, tmp_path):
        """Channels of its own, and a key."""
        keys = tmp_path / "keys"
        keys.write_text("first secret\nsecond secret\n")
        return shared_redis.url(
            prefix=f"test{next(self._numbers)}", symmetric_encryption_keys_file=keys
        )


@pytest.fixture(scope="module")
def sentinels():
    """A master with a replica and three sentinels."""
    with running_sentinels() as it:
        yield it


class TestSentinel(LayerConformance):
    """A server that sentinels know."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, sentinels):
        """Channels of its own."""
        return sentinels.url(prefix=f"test{next(self._numbers)}")


@pytest.fixture(scope="module")
def cluster():
    """A Cluster of three masters."""
    with running_cluster() as it:
        yield it


class TestCluster(LayerConformance):
    """A Cluster whose nodes share the topics."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, cluster):
        """Channels of its own."""
        return cluster.url(prefix=f"test{next(self._numbers)}", pubsub="sharded")


class TestClusterPlain(LayerConformance):
    """A Cluster whose nodes tell each other what is published."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, cluster):
        """Channels of its own."""
        return cluster.url(prefix=f"test{next(self._numbers)}", pubsub="plain")


class TestTwoTiers(LayerConformance):
    """Processes of one machine, which has a Redis for others."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, shared_redis):
        """A folder of its own, and channels of its own."""
        redis = shared_redis.url(prefix=f"test{next(self._numbers)}")
        with tempfile.TemporaryDirectory(prefix="gc-") as above:
            yield f"ipc://{above}/app+{redis}"


class TestTwoTiersOfTwoMachines(LayerConformance):
    """Each layer is on a machine of its own: in another folder."""

    _numbers = itertools.count()

    @pytest.fixture
    def layer_url(self, shared_redis):
        """The part that programs and layers have in common."""
        redis = shared_redis.url(prefix=f"test{next(self._numbers)}")
        with tempfile.TemporaryDirectory(prefix="gc-") as above:
            yield f"ipc://{above}/elsewhere+{redis}"

    def make_layer(self, url):
        """Return a layer of the next machine."""
        name = f"/{next(self._numbers)}+"
        return super().make_layer(url.replace("/elsewhere+", name))
