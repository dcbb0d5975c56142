-- The clear of a rank that a replay repeats: the rank's last status still counts for the others.
--
-- INCLUDE  caller, changes, counts

-- has_change: whether the last change is one of this room.
local function clear_replayed(room, fields, has_change)
  local counts = format_cleared(parse_counts(fields.counts))
  redis.call('HSET', room, cleared_field, fields[status_field], 'counts', counts)
  redis.call('HDEL', room, status_field, lease_field)
  local n = #changes
  if not has_change then
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = room, fields.status, false, false
    n = n + 5
  end
  changes[n] = {'rank:' .. rank, 'absent'}
end
