-- Write the status of the caller's rank, and what follows from it: consensus, version, reason, TTL, feed. Times are
-- milliseconds.
--
-- INCLUDE  clock, changes, caller, consensus_of_ranks, take_part

-- Returns what the feed says of a room that is new. A follower must drop the ranks of a former generation, or of a room
-- that has expired.
local function opening_words(fields, status)
  local words = rank ~= '' and {'first:' .. rank, status, 'first', fields.generation} or {'first', fields.generation}
  if owner ~= '' then words[#words + 1], words[#words + 2] = 'owner', owner end
  if fields.request ~= '' then words[#words + 1], words[#words + 2] = 'request', fields.request end
  return words
end

-- Adds to fields what it writes. The first reason stays.
local function write_status(room, fields, status, reason)
  read_clock()
  local previous = fields.status
  fields[status_field] = status
  if rank ~= '' then fields.status = consensus_of_ranks(fields) end
  local ttl_ms = (fields.status == 'Success' or fields.status == 'Failed') and ARGV[3] or ARGV[2]
  redis.call('PEXPIRE', room, ttl_ms)  -- first, as in fail_room.lua; a new room exists by now
  if rank == '' then
    redis.call('HSET', room, 'status', status, 'updated_ms', now_ms)
  else
    local version = string.format('%.0f', (fields.version or 0) + 1)
    redis.call('HSET', room, status_field, status, 'status', fields.status, 'updated_ms', now_ms, 'version', version)
    take_part(room, fields)
  end
  local is_first = false
  if fields.status ~= 'Failed' then
    if previous == 'Failed' then redis.call('HDEL', room, 'reason', 'failed_by') end
  else
    is_first = reason ~= '' and redis.call('HSETNX', room, 'reason', reason) == 1
    -- If the room had failed before, or is created Failed, the caller is not the cause.
    if previous ~= 'Failed' and ARGV[10] ~= '' then redis.call('HSETNX', room, 'failed_by', ARGV[10]) end
  end
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3] = room, fields.status, ttl_ms
  changes[n + 4], changes[n + 5] = is_first and reason, false
  if fields.is_new then
    changes[n + 5] = opening_words(fields, status)
  elseif rank ~= '' then
    changes[n + 5] = {'rank:' .. rank, status}
  end
  if status == 'Failed' and (is_first or previous ~= 'Failed') then
    failures = failures or {}
    failures[room] = redis.call('HMGET', room, 'generation', 'request', 'owner', 'failed_by', 'reason')
    failures[room][6] = reason == 'Aborted by AbortReq.' and 'abort' or 'engine'  -- what SGLang's abort says
  end
end
