import psutil

from mmpo_train.trial import outbox


def test_the_machine_is_looked_at_every_fifteen_seconds_and_its_memory_is_what_it_has(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now[0])
    looks = outbox.Usage()
    first = looks.look()
    total = psutil.virtual_memory().total
    assert 0 < first["system/system_memory_usage_megabytes"] * 1e6 < total
    assert 0 <= first["system/cpu_utilization_percentage"] <= 100
    now[0] += 14
    assert looks.look() == {}
    now[0] += 1
    assert looks.look().keys() == first.keys()
