-- Remove each room with its decode prefix length, and return its last status; for a rank, remove that rank's part.
--
-- KEYS     feed, epoch, owned, cleared; each: room, prefix
-- ARGV     feed_length, rank, world_size; each: generation
-- REPLY    feed_id, epoch; each: outcome, status, reason
-- FEED     status, rank, absent
-- CODES    5 SKIPPED, 6 STALE, 7 CLEARED, 8 ENDED, -3 WORLD_SIZE, -4 CORRUPT
-- INCLUDE  order, numbers, counts, read_fields, room_id, is_other_type, rank_view, refused, feed
--
-- An empty generation clears any. With one, the clear is STALE once the room has another; a rank's is refused with
-- WORLD_SIZE, as its writes are, if the room has no ranks or another number of them. A rank that clears leaves its last
-- status, for the consensus of the others; the last rank removes the key: ENDED. Of a room that a replay created, a
-- rank may be yet to come: the key goes once world_size ranks have cleared, else by its TTL. A rank without a status in
-- a Failed room has seen it Failed, so it clears that. A rank's clear drops only its own decode prefix length: another
-- rank's may already belong to the next request. The generation of a room that a replay created is kept for a day, so
-- that a late replay does not create it once more. A key of another type (made by hand) is removed, since nothing else
-- removes it; only a rank cannot clear a room whose status is unknown: CORRUPT, with that.

local DAY_MS = '86400000'

local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
local rank = ARGV[2]
local status_field, cleared_field, length_field = 'status:' .. rank, 'cleared:' .. rank, 'length:' .. rank
local lease_field = 'by:' .. rank

for i = 1, #ARGV - 3 do
  local room, prefix, expected_generation = KEYS[i * 2 + 3], KEYS[i * 2 + 4], ARGV[i + 3]
  local fields = redis.pcall('HMGET', room, 'status', 'reason', 'generation', 'world_size', status_field,
    cleared_field, 'owner', 'replayed', 'counts')
  local exists, has_ranks = fields[1] or fields.err, rank ~= '' and fields[4]
  local outcome, status, is_removed = exists and 7 or 5, fields[1], true
  if has_ranks then status = rank_view(fields[1], fields[5], fields[6]) end
  if expected_generation ~= '' and fields[3] ~= expected_generation then
    outcome, is_removed = 6, false
  elseif expected_generation ~= '' and rank ~= '' and (fields[4] or '') ~= ARGV[3] then
    outcome, status, is_removed = -3, fields[4] or '', false
  elseif has_ranks and not ORDER[fields[1]] then
    outcome, status, is_removed = -4, 'status ' .. (fields[1] or ''), false
  elseif rank ~= '' and (has_ranks or not exists) then
    if is_other_type(redis.pcall('HDEL', prefix, length_field)) then redis.call('DEL', prefix) end
    if has_ranks and not status then
      outcome, is_removed = expected_generation == '' and 5 or 6, false
    elseif has_ranks then
      local counts = parse_counts(fields[9], fields[5]) or count_ranks(read_fields(room))
      if not fields[5] then counts[0] = counts[0] + 1 end
      local is_last = ranks_left(counts) <= 1
      is_removed = is_last and not (fields[8] and is_number(fields[4]) and counts[5] + 1 - fields[4] < 0)
      if is_removed then
        outcome = 8
        if redis.pcall('HGET', prefix, 'generation') == fields[3] then redis.call('DEL', prefix) end
      else
        redis.call('HSET', room, cleared_field, fields[5] or 'Failed', 'counts', format_cleared(counts))
        redis.call('HDEL', room, status_field, lease_field)
        if is_last then redis.pcall('ZREM', KEYS[3], room_id(room)) end  -- nobody is left whose lease would touch it
        local n = #changes
        changes[n + 1], changes[n + 2], changes[n + 3] = room, fields[1], false
        changes[n + 4], changes[n + 5] = false, {'rank:' .. rank, 'absent'}
      end
    end
  else
    redis.call('DEL', prefix)
  end
  if is_removed then
    redis.call('DEL', room)
    if fields[8] and is_number(fields[3] or '') then
      if is_other_type(redis.pcall('HLEN', KEYS[4])) then redis.call('DEL', KEYS[4]) end
      redis.call('HSET', KEYS[4], room_id(room), fields[3])
      redis.call('PEXPIRE', KEYS[4], DAY_MS)
    end
    if fields[7] or fields[4] or not exists then redis.pcall('ZREM', KEYS[3], room_id(room)) end
    if exists then
      local n = #changes
      changes[n + 1], changes[n + 2], changes[n + 3] = room, 'absent', false
      changes[n + 4], changes[n + 5] = false, false
    end
  end
  -- To clear a room once more is no late message: a handle does so at its end.
  if fields[1] and ((outcome == 6 and fields[3] ~= expected_generation) or outcome < 0) then
    refused = refused or {}
    refused[outcome] = (refused[outcome] or 0) + 1
    refused_room = room
  end
  reply[i * 3], reply[i * 3 + 1], reply[i * 3 + 2] = outcome, status or false, fields[2] or false
  if fields_read > MAX_FIELDS then break end
end
